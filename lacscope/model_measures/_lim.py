"""LIM, layer input modification (layer-wise quantization): how far a layer's output is from its input."""

from typing import Any

import numpy as np
import torch
import xarray as xr

from lacscope.model_measures._angles import angle
from lacscope.model_measures._importance_results import each_sample, labelled
from lacscope.model_measures._last_state import LastState, check_last_state, states_of
from lacscope.model_measures._positions import kept_tokens, positions_in_words
from lacscope.model_measures._residuals import Residuals
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.traces._measure import Measure, Ranking
from lacscope.traces._provenance import Preset, Progress, result_attrs

DUMITRU_LIM = Preset(
    "dumitru_2024/lim",
    "Layer-Wise Quantization, Dumitru et al. 2024, arXiv 2406.17415, section 3.1 (LIM)",
    {"exclude_sinks": False},
    read_in="code",
)


def lim(
    model: Model,
    inputs: Any,
    *,
    exclude_sinks: bool = False,
    last_state: LastState = "raw",
    max_tokens: int | None = None,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """-cos of a layer's input and output, each flattened over tokens and features; the mean over tokens beside it.

    The flattened one weighs a token by its norms, so that a sink of a hundred times the others' norm nearly decides
    it alone: see ``lim_token_mean``, where all tokens weigh the same.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        exclude_sinks: True to leave sinks out of both. The paper keeps them.
        last_state: ``"raw"``: h_L as it leaves the last block; ``"normed"``: after the model's final norm, as code that
            reads transformers' ``hidden_states`` has it. Only what touches h_L changes.
        max_tokens: the number of tokens that are read of each prompt, from its first.
        data: the name of the prompts, for the figure.
        progress: a function that is called with (prompts read, prompts).

    Returns:
        Dataset over (sample, layer), in [-1, 1], larger = more important: ``lim``, and ``lim_token_mean``
        (Block Influence less 1). ``n_tokens`` (sample) counts tokens; a sample without any is NaN.

    Drawn by :func:`lacscope.plots.plot_importance`.

    Raises:
        InputError: inputs that cannot be read.
        ValueError: an unknown ``last_state``.
        UnsupportedModelError: ``"normed"`` of a model whose final norm is not known.

    Source: Dumitru et al. 2024 (arXiv 2406.17415), LIM.

    >>> from lacscope.testing import tiny_model
    >>> found = lim(tiny_model(n_layers=3), [5, 17, 3])
    >>> sorted(found.data_vars)
    ['lim', 'lim_mean', 'lim_token_mean', 'lim_token_mean_mean']
    """

    check_last_state(model, last_state)

    def measure(read: Residuals) -> dict[str, Any]:
        kept = kept_tokens(read, exclude_sinks)
        states = states_of(model, read.stream, last_state)[:, kept]
        pairs = [(states[k], states[k + 1]) for k in range(read.n_layers)]
        flat = torch.stack([-torch.cos(angle(a.flatten(), b.flatten())) for a, b in pairs]).cpu()
        return {
            "flat": flat if bool(kept.any()) else torch.full_like(flat, torch.nan),
            "by_token": torch.stack([-torch.cos(angle(a, b)).mean() for a, b in pairs]).cpu(),
            "n_tokens": int(kept.sum()),
        }

    adapter, found = each_sample(model, inputs, measure, max_tokens=max_tokens, progress=progress)
    n_samples = len(found["n_tokens"])
    dims = ("sample", "layer")
    return labelled(
        {
            "lim": (dims, found["flat"], "-cos(h_l, h_l+1), sequence flattened", "1"),
            "lim_token_mean": (dims, found["by_token"], "-cos(h_l, h_l+1), mean over tokens", "1"),
        },
        {
            "sample": np.arange(n_samples),
            "layer": np.arange(adapter.n_layers),
            "n_tokens": ("sample", found["n_tokens"]),
        },
        importance="lim",
        attrs=result_attrs(
            "lim",
            model_attrs(adapter),
            preset=DUMITRU_LIM,
            settings={"exclude_sinks": exclude_sinks, "last_state": last_state, "max_tokens": max_tokens},
            positions=positions_in_words(exclude_sinks),
            aggregation="sequence flattened, per sample",
            n_samples=n_samples,
            data=data,
        ),
    )


LIM = Measure(
    lim,
    "LIM",
    "minus the cosine of the flattened input and output",
    plot="plot_importance",
    parts="each",
    rankings={"LIM": Ranking("lim")},
    papers=(DUMITRU_LIM,),
    group="importance",
)
