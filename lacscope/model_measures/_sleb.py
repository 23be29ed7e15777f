"""SLEB: greedily remove the block whose removal raises perplexity least.

Source: "SLEB: Streamlining LLMs through Redundancy Verification and Elimination of Transformer Blocks",
arXiv 2402.09025, metric 3 (section 3.2) and the authors' ``sleb.py``. The paper speaks of 128 samples of 2,048 tokens.
The code takes 128 shuffled lines of WikiText-2's training set, joins them by blank lines and cuts the whole into chunks
of 2,048 tokens: a few, since most lines are short.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from lacscope.guards._arguments import ANY, made_by, whole_number, whole_numbers
from lacscope.model_measures._ablation import mean_loss
from lacscope.model_measures._importance_results import ORIENTATION
from lacscope.model_measures._residuals import read_residuals, rerun
from lacscope.models._checks import check_blocks
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter, without_gradients
from lacscope.traces._measure import Measure, Ranking
from lacscope.traces._provenance import Preset, Progress, result_attrs
from lacscope.tracing._inputs import InputError

SLEB = Preset(
    "song_2024/sleb",
    "SLEB, arXiv 2402.09025, section 3 and sleb.py",
    {"data": "WikiText-2 train, 128 shuffled lines joined and cut", "max_tokens": 2048, "protect": (0, -1)},
    read_in="code",
)


@without_gradients()
def sleb(
    model: Model,
    inputs: Any,
    *,
    remove: int | None = None,
    protect: Collection[int] = (0, -1),
    max_tokens: int | None = 2048,
    go_on_from: xr.Dataset | None = None,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Blocks in the order in which SLEB removes them, and the perplexity after each removal.

    In every round each remaining block is left out in turn, and the one without which the prompts' own next tokens
    are likeliest is removed for good (of equals, the shallower). To save time, a removed block is not run, the blocks
    before a candidate are read from the last pass, and the blocks before the first candidate run once for all rounds.
    Memory: one prompt's streams, and the stream that enters the first candidate, for each prompt.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the calibration texts, as :func:`lacscope.trace` takes them.
        remove: the number of blocks to remove; None: all but those that are protected, and one at least stays.
        protect: layers that are never removed; the authors keep the first and the last.
        max_tokens: the number of tokens that are read of each prompt, from its first.
        go_on_from: a result of the same model, prompts and ``protect`` with fewer removals, which are not made again.
        data: the name of the prompts, for the figure.
        progress: a function that is called with (removals tried, removals to try), each over all prompts.

    Returns:
        Dataset over ``step`` = 0 (the full model) .. removals: ``removed`` (the layer that goes at this step; -1 at 0),
        ``perplexity`` (all tokens pooled); over (sample, step) ``loss`` (nats per token); over (step, layer)
        ``candidate_loss`` (nats per token, pooled, if that layer went at this step; NaN where it could not); over layer
        ``removed_at`` (the step; NaN for those that stay) and ``importance``, the same with the next step for those
        that stay, larger = more important; over sample ``n_tokens`` (predictions).

    Drawn by :func:`lacscope.plots.plot_sleb`.

    Raises:
        InputError: inputs that cannot be read, or a prompt without a next token.
        ValueError: more removals than there are candidates, a protected layer that the model has not, or a result to
            go on from that is of other prompts or layers, or as long already.

    >>> from lacscope.testing import tiny_model
    >>> sleb(tiny_model(), [5, 17, 3, 60], remove=2)["removed"].sizes["step"]
    3
    """
    adapter = check_blocks(model)
    n_layers = adapter.n_layers
    candidates = removable(n_layers, protect, remove)
    n_removed = min(len(candidates), n_layers - 1) if remove is None else remove
    first = candidates[0]
    read = [(one.tokens, one.stream[first].clone()) for one in read_residuals(model, inputs, max_tokens=max_tokens)]
    for index, (tokens, _) in enumerate(read):
        if len(tokens) < 2:
            raise InputError(f"prompt {index} has one token, so no next token to predict: give a longer one.")
    n_tokens = np.array([len(tokens) - 1 for tokens, _ in read])
    losses = np.full((len(read), n_removed + 1), np.nan)
    tried = np.full((n_removed + 1, n_layers), np.nan)
    removed: list[int] = []
    if go_on_from is not None:
        made_by("go_on_from", go_on_from, xr.Dataset, "sleb(model, inputs)")
        removed = _removed_before(go_on_from, n_tokens, candidates, n_removed)
        losses[:, : len(removed) + 1] = go_on_from["loss"].values
        tried[: len(removed) + 1] = go_on_from["candidate_loss"].values
    done, to_do = 0, sum(len(candidates) - step for step in range(len(removed), n_removed))
    for step in range(len(removed) + 1, n_removed + 1):
        left = [layer for layer in candidates if layer not in removed]
        found = np.empty((len(read), len(left)))
        with adapter.not_running(removed):
            for i, (tokens, entering) in enumerate(read):
                before, found[i] = _without_each(adapter, tokens, entering, first, left)
                if step == 1:
                    losses[i, 0] = before
        tried[step, left] = (found * n_tokens[:, None]).sum(0) / n_tokens.sum()
        best = int(np.nanargmin(tried[step]))
        losses[:, step] = found[:, left.index(best)]
        removed.append(best)
        done += len(left)
        if progress is not None:
            progress(done, to_do)
    ds = _dataset(losses, tried, removed, n_tokens)
    ds.attrs = result_attrs(
        "sleb",
        model_attrs(adapter),
        preset=SLEB,
        settings={"remove": n_removed, "protect": tuple(protect), "max_tokens": max_tokens},
        positions="all but the first token are predicted",
        aggregation="perplexity of all tokens pooled",
        n_samples=len(read),
        data=data,
    ) | {"importance": "importance", "orientation": ORIENTATION}
    return ds


def removable(n_layers: int, protect: Collection[int], remove: int | None) -> list[int]:
    """The layers that may go, in rising order.

    Raises:
        ValueError: a protected layer that the model has not, or more removals than layers that may go.

    >>> removable(5, (0, -1), 2)
    [1, 2, 3]
    """
    layers = whole_numbers("protect", protect, least=ANY)
    if remove is not None:
        whole_number("remove", remove, least=ANY)
    outside = [layer for layer in layers if not -n_layers <= layer < n_layers]
    if outside:
        raise ValueError(
            f"protect has layer {outside[0]}; the model has layers 0 to {n_layers - 1} (or -1 to {-n_layers})."
        )
    kept = {layer % n_layers for layer in protect}
    found = [layer for layer in range(n_layers) if layer not in kept]
    most = min(len(found), n_layers - 1)
    if most < 1 or (remove is not None and not 1 <= remove <= most):
        raise ValueError(
            f"remove={remove} of {n_layers} layers, {sorted(kept)} of them protected: {most} can be removed "
            "(one layer at least stays)."
        )
    return found


def _removed_before(
    earlier: xr.Dataset, n_tokens: Int[np.ndarray, " sample"], candidates: list[int], remove: int
) -> list[int]:
    """The layers that an earlier result removed, if it may be gone on from."""
    removed = [int(layer) for layer in earlier["removed"].values[1:]]
    if not np.array_equal(earlier["n_tokens"].values, n_tokens) or not set(removed) <= set(candidates):
        raise ValueError(
            "go_on_from is a result of other prompts, or removed layers that may not go here: "
            "give one of the same prompts, max_tokens and protect."
        )
    if len(removed) >= remove:
        raise ValueError(f"go_on_from removed {len(removed)} layers already, and {remove} are asked for.")
    return removed


def importance_of(removed_at: Float[np.ndarray, " layer"]) -> Float[np.ndarray, " layer"]:
    """The step of each layer's removal, and the step after the last for the layers that stay.

    >>> importance_of(np.array([np.nan, 2.0, 1.0]))
    array([3., 2., 1.])
    """
    return np.where(np.isnan(removed_at), np.nanmax(removed_at) + 1, removed_at)


def _without_each(
    adapter: Adapter, tokens: Int[Tensor, " pos"], entering: Float[Tensor, "pos d_model"], first: int, left: list[int]
) -> tuple[float, Float[np.ndarray, " candidate"]]:
    """Loss of the model as it now is, and without each of the layers ``left``."""
    streams = {first: entering}

    def keep(layer: int, stream: Tensor) -> None:
        if layer in left:
            streams[layer] = stream[0].clone()

    before = _loss(rerun(adapter.model, tokens, first, entering.unsqueeze(0), visit=keep)[0], tokens)
    found = [
        _loss(rerun(adapter.model, tokens, layer + 1, streams[layer].unsqueeze(0), leaving=True)[0], tokens)
        for layer in left
    ]
    return before, np.array(found)


def _loss(logits: Float[Tensor, "pos vocab"], tokens: Int[Tensor, " pos"]) -> float:
    return mean_loss(torch.log_softmax(logits[:-1].float(), dim=-1), tokens[1:])


def _dataset(
    losses: Float[np.ndarray, "sample step"],
    tried: Float[np.ndarray, "step layer"],
    removed: list[int],
    n_tokens: Int[np.ndarray, " sample"],
) -> xr.Dataset:
    removed_at = np.full(tried.shape[1], np.nan)
    removed_at[removed] = np.arange(1, len(removed) + 1)
    pooled = (losses * n_tokens[:, None]).sum(0) / n_tokens.sum()
    return xr.Dataset(
        {
            "removed": ("step", [-1, *removed], {"long_name": "layer removed", "units": "layer"}),
            "perplexity": ("step", np.exp(pooled), {"long_name": "perplexity", "units": "1"}),
            "loss": (("sample", "step"), losses, {"long_name": "loss", "units": "nats per token"}),
            "candidate_loss": (("step", "layer"), tried, {"long_name": "loss without", "units": "nats per token"}),
            "removed_at": ("layer", removed_at, {"long_name": "step at which the layer is removed", "units": "step"}),
            "importance": ("layer", importance_of(removed_at), {"long_name": "order of removal", "units": "step"}),
        },
        {
            "step": np.arange(len(tried)),
            "layer": np.arange(tried.shape[1]),
            "sample": np.arange(len(losses)),
            "n_tokens": ("sample", n_tokens, {"long_name": "tokens predicted", "units": "tokens"}),
        },
    )


SLEB_REMOVAL = Measure(
    sleb,
    "SLEB",
    "layers removed one after the other, least perplexity first",
    plot="plot_sleb",
    rankings={"SLEB order": Ranking("importance", options={"protect": ()})},
    papers=(SLEB,),
    group="importance",
)
