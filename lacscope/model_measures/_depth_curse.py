"""Variance growth and distance to the identity, as described for the Curse of Depth; not compared with its code."""

from typing import Any

import numpy as np
import torch
import xarray as xr

from lacscope.guards._arguments import whole_number
from lacscope.model_measures._importance_results import each_sample, labelled
from lacscope.model_measures._jacobian_probes import identity_distances
from lacscope.model_measures._last_state import LastState, check_last_state, states_of
from lacscope.model_measures._positions import kept_tokens, positions_in_words
from lacscope.model_measures._residuals import Residuals
from lacscope.models._checks import check_blocks
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.traces._measure import Measure, Ranking
from lacscope.traces._provenance import Preset, Progress, result_attrs

_PAPER = "as described for the Curse of Depth (Sun et al. 2025, arXiv 2502.05795), not compared with its code"
CURSE_VARIANCE = Preset("sun_2025/variance", f"variance of the stream by depth, {_PAPER}", {}, read_in="paper")
CURSE_IDENTITY = Preset(
    "sun_2025/identity_distance",
    f"distance of a block's Jacobian to the identity, {_PAPER}",
    {"n_probes": 32},
    read_in="paper",
)


def depth_variance(
    model: Model,
    inputs: Any,
    *,
    exclude_sinks: bool = True,
    last_state: LastState = "raw",
    max_tokens: int | None = None,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Variance of the residual stream's entries, by depth.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        exclude_sinks: True to leave sinks out: their entries would be most of the variance. Whether the paper does was
            not read.
        last_state: ``"raw"``: h_L as it leaves the last block; ``"normed"``: after the model's final norm, as code that
            reads transformers' ``hidden_states`` has it. Only what touches h_L changes.
        max_tokens: the number of tokens that are read of each prompt, from its first.
        data: the name of the prompts, for the figure.
        progress: a function that is called with (prompts read, prompts).

    Returns:
        Dataset with ``variance`` (sample, state), over all entries (token, feature) of h_0..h_L, in squared stream
        units; ``growth`` (sample, layer), ln(variance of h_{l+1} / variance of h_l); and ``importance`` (sample,
        layer), its absolute value, 0 for a layer that changes nothing, larger = more important. A sample without
        tokens is NaN.

    Drawn by :func:`lacscope.plots.plot_importance`.

    Raises:
        InputError: inputs that cannot be read.
        ValueError: an unknown ``last_state``.
        UnsupportedModelError: ``"normed"`` of a model whose final norm is not known.

    Source: the paper of the Curse of Depth (Sun et al. 2025, arXiv 2502.05795); not compared with its code.

    >>> from lacscope.testing import tiny_model
    >>> depth_variance(tiny_model(n_layers=3), [5, 17, 3]).sizes["state"]
    4
    """

    check_last_state(model, last_state)

    def measure(read: Residuals) -> dict[str, Any]:
        kept = kept_tokens(read, exclude_sinks)
        states = states_of(model, read.stream, last_state)
        variance = torch.stack([state[kept].float().var(correction=0) for state in states])
        return {"variance": variance.cpu(), "n_tokens": int(kept.sum())}

    adapter, found = each_sample(model, inputs, measure, max_tokens=max_tokens, progress=progress)
    variance = found["variance"]
    growth = np.log(variance[:, 1:] / variance[:, :-1])
    dims = ("sample", "layer")
    return labelled(
        {
            "variance": (("sample", "state"), variance, "variance of the stream's entries", "squared stream units"),
            "growth": (dims, growth, "ln(variance leaving / variance entering)", "nats"),
            "importance": (dims, np.abs(growth), "|ln(variance leaving / variance entering)|", "nats"),
        },
        {
            "sample": np.arange(len(variance)),
            "state": np.arange(adapter.n_layers + 1),
            "layer": np.arange(adapter.n_layers),
            "n_tokens": ("sample", found["n_tokens"]),
        },
        importance="importance",
        attrs=result_attrs(
            "depth_variance",
            model_attrs(adapter),
            preset=CURSE_VARIANCE,
            settings={"exclude_sinks": exclude_sinks, "last_state": last_state, "max_tokens": max_tokens},
            positions=positions_in_words(exclude_sinks),
            aggregation="variance over tokens and features, per sample",
            n_samples=len(variance),
            data=data,
        ),
    )


def identity_distance(
    model: Model,
    inputs: Any,
    *,
    n_probes: int = 32,
    exclude_sinks: bool = True,
    max_tokens: int | None = None,
    seed: int = 0,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Root mean over Gaussian v of ||Jv - v||^2 / ||v||^2, J the token-diagonal Jacobian of the block: 0 for J = 1.

    J = d h_{l+1}[t] / d h_l[t] holds what the other tokens enter with fixed. It is the Jacobian of a cached decode
    step: a prompt is read token by token, the earlier tokens' keys and values stand in the cache as constants, and
    what enters each block gets a new tangent v in forward mode. So one pass gives J_l v of every layer, exactly,
    the token's own key and value included; ``n_probes`` probes are the rows of a batch, and a KV cache of so many
    rows is held.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``. bfloat16 rounds Jv to 8 bits: distances
            below about 0.002 mean nothing there.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        n_probes: Gaussian vectors v, drawn anew for every token that counts, the same for all layers.
        exclude_sinks: True to leave sinks out of the means; whether the paper does was not read.
        max_tokens: the number of tokens that are read of each prompt, from its first.
        seed: the seed of the probes.
        data: the name of the prompts, for the figure.
        progress: a function that is called with (prompts read, prompts).

    Returns:
        Dataset with ``identity_distance`` (sample, layer), the mean over tokens, larger = more important, and
        ``n_tokens`` (sample), the tokens of each mean; a sample without any is NaN.

    Drawn by :func:`lacscope.plots.plot_importance`.

    Raises:
        InputError: inputs that cannot be read.
        UnsupportedModelError: an operation of the model has no forward-mode derivative (BLOOM's GELU, grouped experts).
        ValueError: no probes.

    Source: the paper of the Curse of Depth (Sun et al. 2025, arXiv 2502.05795); not compared with its code.

    >>> from lacscope.testing import tiny_model
    >>> found = identity_distance(tiny_model(n_layers=3), [5, 17, 3], n_probes=4)
    >>> dict(found.sizes), found.n_tokens.item()
    ({'sample': 1, 'layer': 3}, 2)
    """
    whole_number("n_probes", n_probes, least=1)
    whole_number("seed", seed)
    adapter, rng = check_blocks(model), np.random.default_rng(seed)

    def measure(read: Residuals) -> dict[str, Any]:
        kept = kept_tokens(read, exclude_sinks)
        by_token = identity_distances(adapter, read, kept, n_probes, rng)
        return {"distance": by_token.mean(-1), "n_tokens": int(kept.sum())}

    _, found = each_sample(model, inputs, measure, max_tokens=max_tokens, progress=progress)
    n_samples = len(found["n_tokens"])
    settings = {"n_probes": n_probes, "exclude_sinks": exclude_sinks, "max_tokens": max_tokens, "seed": seed}
    return labelled(
        {"identity_distance": (("sample", "layer"), found["distance"], "rms ||Jv - v|| / ||v||", "1")},
        {
            "sample": np.arange(n_samples),
            "layer": np.arange(adapter.n_layers),
            "n_tokens": ("sample", found["n_tokens"]),
        },
        importance="identity_distance",
        attrs=result_attrs(
            "identity_distance",
            model_attrs(adapter),
            preset=CURSE_IDENTITY,
            settings=settings,
            positions=positions_in_words(exclude_sinks),
            aggregation=f"root mean square over {n_probes} Gaussian v, mean over tokens, per sample",
            n_samples=n_samples,
            data=data,
        ),
    )


DEPTH_VARIANCE = Measure(
    depth_variance,
    "variance growth",
    "growth of the stream's variance at each layer",
    plot="plot_importance",
    parts="each",
    rankings={"variance growth": Ranking("importance")},
    papers=(CURSE_VARIANCE,),
    group="importance",
    command="variance",
)
IDENTITY_DISTANCE = Measure(
    identity_distance,
    "identity distance",
    "distance of each block's Jacobian from the identity",
    plot="plot_importance",
    rankings={"identity distance": Ranking("identity_distance")},
    papers=(CURSE_IDENTITY,),
    group="importance",
    command="identity",
)
