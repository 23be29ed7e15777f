"""Block Influence (ShortGPT): how far a layer turns the residual stream."""

from typing import Any

import numpy as np
import torch
import xarray as xr

from lacscope.model_measures._angles import angle, one_minus_cosine
from lacscope.model_measures._importance_results import each_sample, labelled
from lacscope.model_measures._last_state import LastState, check_last_state, states_of
from lacscope.model_measures._positions import kept_tokens, positions_in_words
from lacscope.model_measures._residuals import Residuals
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.traces._measure import Measure, Ranking
from lacscope.traces._provenance import Preset, Progress, result_attrs

SHORTGPT_BLOCK_INFLUENCE = Preset(
    "men_2024/block_influence",
    "ShortGPT, Men et al. 2024, arXiv 2403.03853, eq. 1",
    {"data": "PG19", "exclude_sinks": False, "last_state": "raw"},
    read_in="code",
)


def block_influence(
    model: Model,
    inputs: Any,
    *,
    exclude_sinks: bool = False,
    last_state: LastState = "raw",
    max_tokens: int | None = None,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """1 - mean over tokens of cos(h_l, h_{l+1}): 0 for a layer that leaves the stream's direction as it is.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them. Nothing is padded, so every token is a real one.
        exclude_sinks: True to leave sinks out of the means. The paper keeps them.
        last_state: ``"raw"``: h_L as it leaves the last block; ``"normed"``: after the model's final norm, as code that
            reads transformers' ``hidden_states`` has it. Only what touches h_L changes.
        max_tokens: the number of tokens that are read of each prompt, from its first.
        data: the name of the prompts, for the figure.
        progress: a function that is called with (prompts read, prompts).

    Returns:
        Dataset with ``block_influence`` (sample, layer), in [0, 2], larger = more important, and ``n_tokens``
        (sample), the tokens of each mean; a sample without any is NaN. The cosine with a stream of zeros is 0.

    Drawn by :func:`lacscope.plots.plot_importance`.

    Raises:
        InputError: inputs that cannot be read.
        ValueError: an unknown ``last_state``.
        UnsupportedModelError: ``"normed"`` of a model whose final norm is not known.

    Source: Men et al. 2024 (arXiv 2403.03853), eq. 1, and the public short-transformers, which hooks the blocks. The
    Curse of Depth's published code reads ``hidden_states``, so its last layer is that of ``last_state="normed"``.

    >>> from lacscope.testing import tiny_model
    >>> found = block_influence(tiny_model(n_layers=3), [[5, 17, 3], [60, 8]])
    >>> dict(found.sizes)
    {'sample': 2, 'layer': 3}
    """

    check_last_state(model, last_state)

    def measure(read: Residuals) -> dict[str, Any]:
        kept = kept_tokens(read, exclude_sinks)
        states = states_of(model, read.stream, last_state)[:, kept]
        turned = [one_minus_cosine(angle(states[k], states[k + 1])) for k in range(read.n_layers)]
        return {"influence": torch.stack([by_token.mean() for by_token in turned]).cpu(), "n_tokens": int(kept.sum())}

    adapter, found = each_sample(model, inputs, measure, max_tokens=max_tokens, progress=progress)
    n_samples = len(found["n_tokens"])
    return labelled(
        {"block_influence": (("sample", "layer"), found["influence"], "1 - mean cos(h_l, h_l+1)", "1")},
        {
            "sample": np.arange(n_samples),
            "layer": np.arange(adapter.n_layers),
            "n_tokens": ("sample", found["n_tokens"]),
        },
        importance="block_influence",
        attrs=result_attrs(
            "block_influence",
            model_attrs(adapter),
            preset=SHORTGPT_BLOCK_INFLUENCE,
            settings={"exclude_sinks": exclude_sinks, "last_state": last_state, "max_tokens": max_tokens},
            positions=positions_in_words(exclude_sinks),
            aggregation="mean over tokens, per sample",
            n_samples=n_samples,
            data=data,
        ),
    )


BLOCK_INFLUENCE = Measure(
    block_influence,
    "Block Influence",
    "1 - cosine of each block's input and output (ShortGPT)",
    plot="plot_importance",
    parts="each",
    rankings={"Block Influence": Ranking("block_influence")},
    papers=(SHORTGPT_BLOCK_INFLUENCE,),
    group="importance",
)
