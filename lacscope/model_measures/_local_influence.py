"""Local skip influence: what each later layer reads of a layer directly, not through the layers between."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from lacscope.guards._arguments import whole_number
from lacscope.model_measures._csordas_prompts import CSORDAS_PROMPT_FORMAT
from lacscope.model_measures._cut_positions import current_variants, cut_settings, cut_table, future_variants, take_cuts
from lacscope.model_measures._residuals import Residuals, read_residuals, rerun
from lacscope.model_measures._skip_influence import (
    NAN_LOCAL,
    SOURCE,
    Variants,
    influence_dataset,
    output_change,
    probabilities,
    read_rows,
    update_change,
)
from lacscope.models._checks import check_blocks
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.models.adapters import without_gradients
from lacscope.tasks._gsm8k import CSORDAS
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import Preset, Progress, result_attrs

Reach = Literal["current", "future"]
CSORDAS_LOCAL = Preset(
    "csordas_2025/local_skip_influence",
    f"{SOURCE}, local effect",
    {
        "data": "GSM8K",
        "prompt_format": CSORDAS_PROMPT_FORMAT,
        "samples": 10,
        "n_cuts": 4,
        "cuts": "random",
        "keep_first": 1,
    },
    read_in="code",
)


@without_gradients()
def local_skip_influence(
    model: Model,
    inputs: Any,
    *,
    reach: Reach = "current",
    n_cuts: int = 4,
    cuts: Sequence[Sequence[int]] | None = None,
    keep_first: int = 1,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 8,
    max_tokens: int | None = None,
    data: str = "",
    prompt_format: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """How each later layer's update changes when Delta_s alone is missing from the stream that it reads.

    Delta_s is subtracted from each later layer's original input, and that one layer is run: nothing propagates
    through the layers between. The head is read likewise, from h_L - Delta_s (the paper shows no output here); with
    ``"future"`` the output's change is 0 by construction, since the head reads each position by itself.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        reach: ``"current"``: subtract, and measure, at every p >= keep_first; ``"future"``: subtract before a cut t
            and measure from t on.
        n_cuts, cuts, seed, first: the cuts of ``"future"``, as in
            :func:`~lacscope.model_measures.future_skip_influence`.
        keep_first: the number of first positions that are never changed; position 0 is an attention sink.
        batch_size: the number of changed streams that a layer runs at once; more is no better on a CPU.
        max_tokens: the number of tokens that are read of each prompt, from its first.
        data: the name of the prompts, for figures.
        prompt_format: the form in which they are put to the model, in words, such as :data:`CSORDAS_PROMPT_FORMAT`;
            part of the settings that are compared with the paper's.
        progress: a function that is called with (done, total), in later layers run, the head among them.

    Returns:
        As :func:`~lacscope.model_measures.current_skip_influence`, but NaN where layer = skipped too: a
        layer does not read its own update. With ``"future"`` also ``cut``.

    Drawn by :func:`lacscope.plots.plot_skip_influence`.

    Raises:
        ValueError: an unknown reach, a ``batch_size`` under 1, cuts without ``"future"`` or that do not fit.
        InputError: inputs that cannot be read, or a prompt too short.

    Source: Csordás, Manning and Potts 2025 (arXiv 2505.13898), and its code: 10 prompts of GSM8K.

    >>> from lacscope.testing import tiny_model
    >>> found = local_skip_influence(tiny_model(n_layers=3), [5, 17, 3, 60])
    >>> found["influence"].isnull().sum().item()  # layer <= skipped
    6
    """
    if reach not in ("current", "future"):
        raise ValueError(f"reach is 'current' or 'future', got {reach!r}.")
    whole_number("batch_size", batch_size, least=1)
    for name, value, least in (("n_cuts", n_cuts, 1), ("seed", seed, 0), ("first", first, 0)):
        whole_number(name, value, least=least)
    if reach == "current" and cuts is not None:
        raise ValueError("cuts= goes with reach='future'; with 'current' no prompt is cut.")
    rows = read_rows(model, inputs, "block", keep_first, max_tokens)
    lengths = [len(row) for row in rows]
    used = None if reach == "current" else take_cuts(cuts, lengths, n_cuts, keep_first, seed, first)
    variants = _variants(lengths, used, keep_first)
    influence, output = [], []
    for sample, (read, own) in enumerate(zip(read_residuals(model, rows, logits=True), variants, strict=True)):
        lines = np.full((read.n_layers, read.n_layers), np.nan, dtype=np.float32)
        for layer in range(1, read.n_layers):
            lines[:layer, layer] = _one_layer(model, read, layer, own, batch_size)
            if progress is not None:
                progress(sample * read.n_layers + layer, len(rows) * read.n_layers)
        influence.append(lines)
        # The head reads each position by itself, so that of the past alone nothing reaches it.
        silent = np.zeros(read.n_layers, dtype=np.float32)
        output.append(_head(model, read, own) if used is None else silent)
        if progress is not None:
            progress((sample + 1) * read.n_layers, len(rows) * read.n_layers)
    settings: dict[str, Any] = {
        "reach": reach,
        "keep_first": keep_first,
        "max_tokens": max_tokens,
        "prompt_format": prompt_format,
    }
    changed, over = f"subtracted and measured at p >= {keep_first}", "positions"
    if used is not None:
        settings |= cut_settings(cuts, n_cuts, seed)
        changed = f"subtracted at {keep_first} <= p < t, measured at p >= t"
        over = f"positions, {f'{n_cuts} random' if cuts is None else 'given'} t"
    attrs = result_attrs(
        "local_skip_influence",
        model_attrs(model),
        preset=CSORDAS_LOCAL,
        settings=settings,
        positions=changed,
        aggregation=f"max over {over} and prompts",
        n_samples=len(rows),
        data=data,
    )
    measured = "all tokens, local" if used is None else "future tokens, local"
    found = influence_dataset(
        influence, output, lengths, {**attrs, "influence_on": measured, "unit": "block"}, NAN_LOCAL
    )
    return found if used is None else found.assign(cut=cut_table(used, n_cuts if cuts is None else 1))


def _variants(lengths: Sequence[int], cuts: Sequence[Sequence[int]] | None, keep_first: int) -> list[Variants]:
    if cuts is None:
        return [current_variants(length, keep_first, sample) for sample, length in enumerate(lengths)]
    return [future_variants(own, length, keep_first) for own, length in zip(cuts, lengths, strict=True)]


def _one_layer(
    model: Model, read: Residuals, layer: int, variants: Variants, batch_size: int
) -> Float32[np.ndarray, " skipped"]:
    """E[s, layer] of every s before the layer, which alone is run."""
    found = np.zeros(layer, dtype=np.float32)
    update = read.stream[layer + 1].float() - read.stream[layer].float()
    for skipped, which in _batches(layer, len(variants.skipped), batch_size):
        entering = _without(read, skipped, layer, variants.skipped[which])
        leaving = _run_alone(model, read, layer, entering)
        change = update_change(update, leaving - entering.float(), variants.measured[which])
        np.maximum.at(found, skipped, change.cpu().numpy())
    return found


def _batches(n_skipped: int, n_variants: int, size: int) -> Iterator[tuple[Int[np.ndarray, " batch"], Tensor]]:
    """Every pair of a skipped layer and a variant, some at a time."""
    skipped, which = (grid.ravel() for grid in np.indices((n_skipped, n_variants)))
    for start in range(0, len(skipped), size):
        yield skipped[start : start + size], torch.from_numpy(which[start : start + size])


def _without(
    read: Residuals, skipped: Int[np.ndarray, " batch"], layer: int, where: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    """Streams that enter ``layer``, each without the update of one earlier layer at ``where``."""
    at = torch.from_numpy(skipped).to(read.stream.device)
    update = read.stream[at + 1].float() - read.stream[at].float()
    less = read.stream[layer].float() - update
    return torch.where(where.unsqueeze(-1).to(less.device), less.to(read.stream.dtype), read.stream[layer])


def _run_alone(
    model: Model, read: Residuals, layer: int, entering: Float[Tensor, "batch pos d_model"]
) -> Float32[Tensor, "batch pos d_model"]:
    """What leaves ``layer``: the blocks before and after it do not run."""
    left: list[Tensor] = []

    def visit(reached: int, stream: Tensor) -> None:
        if reached == layer + 1:
            left.append(stream.to(entering.device).float())

    with check_blocks(model).not_running(range(layer + 1, read.n_layers)):
        rerun(model, read.tokens, layer, entering, visit=visit, keep=1)
    return left[0]


def _head(model: Model, read: Residuals, variants: Variants) -> Float32[np.ndarray, " skipped"]:
    """The output's change of every s: the head alone reads h_L - Delta_s."""
    assert read.logits is not None
    original = probabilities(read.logits)
    found = []
    for layer in range(read.n_layers):
        skipped = np.full(len(variants.skipped), layer)
        entering = _without(read, skipped, read.n_layers, variants.skipped)
        logits = rerun(model, read.tokens, read.n_layers, entering, keep=variants.n_read)
        found.append(float(output_change(original, logits.to(original.device), variants.measured).amax()))
    return np.array(found, dtype=np.float32)


LOCAL_SKIP_INFLUENCE = Measure(
    local_skip_influence,
    "local skip influence",
    "skip influence of each layer on each later one, without propagation",
    plot="plot_skip_influence",
    parts="each",
    papers=(CSORDAS_LOCAL,),
    group="depth",
    command="local",
    style=CSORDAS,
)
