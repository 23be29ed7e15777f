"""Similarity of the residual stream's states with each other (layers as painters)."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from lacscope.model_measures._importance_results import each_sample
from lacscope.model_measures._last_state import LastState, check_last_state, states_of
from lacscope.model_measures._positions import kept_tokens, positions_in_words
from lacscope.model_measures._residuals import Residuals
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import Preset, Progress, result_attrs

PAINTERS_SIMILARITY = Preset(
    "sun_2024/state_similarity",
    "Transformer Layers as Painters, Sun et al. 2024, arXiv 2407.09298, cosine similarity of hidden states",
    {"exclude_sinks": False},
)
_TOKENS_AT_ONCE = 64


def state_similarity(
    model: Model,
    inputs: Any,
    *,
    exclude_sinks: bool = False,
    last_state: LastState = "raw",
    max_tokens: int | None = None,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Cosine of every pair of the L+1 states h_0..h_L, each flattened over the sequence.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        exclude_sinks: True to leave sinks out. The paper keeps them; their norm then nearly decides the cosine.
        last_state: ``"raw"``: h_L as it leaves the last block; ``"normed"``: after the model's final norm, as code that
            reads transformers' ``hidden_states`` has it. Only what touches h_L changes.
        max_tokens: the number of tokens that are read of each prompt, from its first.
        data: the name of the prompts, for the figure.
        progress: a function that is called with (prompts read, prompts).

    Returns:
        Dataset with ``similarity`` (sample, state, other_state), in [-1, 1], symmetric, and ``mean_similarity``
        (state, other_state), its mean over samples. State l is what enters layer l; state L is what leaves the
        last block, as ``last_state`` says. A sample without tokens is NaN.

    Drawn by :func:`lacscope.plots.plot_state_similarity`.

    Raises:
        InputError: inputs that cannot be read.
        ValueError: an unknown ``last_state``.
        UnsupportedModelError: ``"normed"`` of a model whose final norm is not known.

    Source: Sun et al. 2024 (arXiv 2407.09298).

    >>> from lacscope.testing import tiny_model
    >>> state_similarity(tiny_model(n_layers=3), [5, 17, 3]).mean_similarity.shape
    (4, 4)
    """

    check_last_state(model, last_state)

    def measure(read: Residuals) -> dict[str, Any]:
        kept = kept_tokens(read, exclude_sinks)
        similarity = _cosines(states_of(model, read.stream, last_state)[:, kept])
        return {"similarity": similarity.cpu(), "n_tokens": int(kept.sum())}

    adapter, found = each_sample(model, inputs, measure, max_tokens=max_tokens, progress=progress)
    similarity = found["similarity"]
    states = np.arange(adapter.n_layers + 1)
    words = {"long_name": "cosine similarity of states", "units": "1"}
    ds = xr.Dataset(
        {"similarity": (("sample", "state", "other_state"), similarity, words)},
        {
            "sample": np.arange(len(similarity)),
            "state": states,
            "other_state": states,
            "n_tokens": ("sample", found["n_tokens"]),
        },
    )
    ds["mean_similarity"] = ds.similarity.mean("sample").assign_attrs(words)
    ds.attrs = result_attrs(
        "state_similarity",
        model_attrs(adapter),
        preset=PAINTERS_SIMILARITY,
        settings={"exclude_sinks": exclude_sinks, "last_state": last_state, "max_tokens": max_tokens},
        positions=positions_in_words(exclude_sinks),
        aggregation="sequence flattened, mean over samples",
        n_samples=len(similarity),
        data=data,
    )
    return ds


def _cosines(stream: Float[Tensor, "state pos d_model"]) -> Float[Tensor, "state state"]:
    # A few tokens at a time: a float32 copy of the whole stream would double what a bfloat16 model needs.
    products = torch.zeros(len(stream), len(stream), device=stream.device)
    for start in range(0, stream.shape[1], _TOKENS_AT_ONCE):
        part = stream[:, start : start + _TOKENS_AT_ONCE].float().flatten(1)
        products += part @ part.T
    norms = products.diagonal().sqrt()
    return products / norms.outer(norms)


STATE_SIMILARITY = Measure(
    state_similarity,
    "state similarity",
    "cosine of every pair of states",
    plot="plot_state_similarity",
    parts="all",
    papers=(PAINTERS_SIMILARITY,),
    group="importance",
    command="similarity",
)
