"""What skipping a layer changes downstream: what the future, current and local skip influence share.

Skip influence of layer s on a later layer l is how much the update Delta_l = h_{l+1} - h_l changes when s is
skipped, and on the output how much the distribution of the next token changes, over the positions p measured:

    E[s, l] = max_p ||Delta_l - Delta~_l|| / max(||Delta_l||, 1e-6)
    output[s] = max_p ||softmax - softmax~||_2

Source: Csordás, Manning and Potts 2025 (arXiv 2505.13898). All of it is in float32. In a model of lower
precision rounding alone changes an update by some percent: load it in float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from lacscope.guards._arguments import whole_number_or_none
from lacscope.model_measures._residuals import ResidualHook, Residuals, read_residuals, rerun
from lacscope.models._checks import check_blocks, require_sublayers
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter
from lacscope.traces._provenance import Progress
from lacscope.tracing._inputs import check_lengths, read_inputs

SkippedUnit = Literal["block", "attn", "mlp"]
SKIPPED_UNITS: tuple[SkippedUnit, ...] = ("block", "attn", "mlp")
SOURCE = "Csordás, Manning and Potts 2025, arXiv 2505.13898"
_SMALLEST_NORM = 1e-6  # the authors' clamp
_INFLUENCE = {"long_name": "relative change of a later layer's update", "units": "share of the update's norm"}
_OUTPUT = {"long_name": "change of the output distribution", "units": "L2 distance of probabilities, 0 to sqrt(2)"}
NAN = {"nan": "where layer < skipped: those layers run before the skip takes effect"}
NAN_LOCAL = {"nan": "where layer <= skipped: a layer does not read its own update"}


@dataclass(frozen=True)
class Variants:
    """Ways to skip one layer of one prompt: where it is skipped, and where its influence is then measured."""

    skipped: Bool[Tensor, "variant pos"]
    measured: Bool[Tensor, "variant pos"]

    @property
    def n_read(self) -> int:
        """How many last positions hold all that is measured."""
        return self.measured.shape[1] - int(self.measured.any(0).nonzero()[0])


def read_rows(model: Model, inputs: Any, unit: str, keep_first: int, max_tokens: int | None) -> list[list[int]]:
    """Token ids of every prompt, once all that can be refused before a pass has been.

    Raises:
        ValueError: an unknown ``unit``, or a negative ``keep_first``.
        UnsupportedModelError: a sublayer of a model whose hook points are not the block's parts.
        InputError: inputs that cannot be read or do not fit the context, or a prompt that is kept whole.
    """
    if unit not in SKIPPED_UNITS:
        raise ValueError(f"unit is one of {', '.join(map(repr, SKIPPED_UNITS))}, got {unit!r}.")
    whole_number_or_none("max_tokens", max_tokens, least=1)
    if isinstance(keep_first, bool) or not hasattr(keep_first, "__index__") or keep_first < 0:
        raise ValueError(f"keep_first counts the first positions that are never skipped: 0 or more, got {keep_first}.")
    adapter: Adapter = check_blocks(model)
    if unit != "block":
        require_sublayers(adapter)
    rows = [ids[:max_tokens] for ids in read_inputs(adapter, inputs)]
    check_lengths(adapter, rows, 0)
    return rows


def probabilities(logits: Float[Tensor, "pos vocab"]) -> Float32[Tensor, "pos vocab"]:
    """Next-token distributions, in float32."""
    return torch.softmax(logits.float(), dim=-1)


def update_change(
    update: Float[Tensor, "pos d_model"],
    changed: Float[Tensor, "variant pos d_model"],
    measured: Bool[Tensor, "variant pos"],
) -> Float32[Tensor, " variant"]:
    """Of each variant, the largest relative change of a layer's update over the positions measured.

    >>> update = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> changed = torch.tensor([[[0.0, 0.0], [0.0, 1.0]]])
    >>> update_change(update, changed, torch.tensor([[True, True]])).item()  # 5/5 and 1/2
    1.0
    >>> update_change(update, changed, torch.tensor([[False, True]])).item()
    0.5
    """
    base = update.float()
    moved = torch.linalg.vector_norm(base - changed.float(), dim=-1)
    relative = moved / torch.linalg.vector_norm(base, dim=-1).clamp(min=_SMALLEST_NORM)
    return relative.masked_fill(~measured.to(relative.device), 0.0).amax(-1)


def output_change(
    original: Float32[Tensor, "pos vocab"],
    logits: Float[Tensor, "variant read vocab"],
    measured: Bool[Tensor, "variant pos"],
) -> Float32[Tensor, " variant"]:
    """Of each variant, the largest L2 distance of its distribution over the positions measured.

    ``logits`` are those of the last positions, which hold all that is measured.

    >>> original = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    >>> round(output_change(original, torch.tensor([[[0.0, 90.0]]]), torch.tensor([[False, True]])).item(), 4)
    0.7071
    """
    read = logits.shape[1]
    found = []
    for variant, where in zip(logits, measured[:, -read:], strict=True):  # one by one: vocabularies are large
        at = where.to(logits.device)
        distance = torch.linalg.vector_norm(probabilities(variant[at]) - original[-read:][at], dim=-1)
        found.append(distance.amax())
    return torch.stack(found)


def skip_every_layer(
    model: Model,
    rows: Sequence[Sequence[int]],
    variants: Sequence[Variants],
    unit: SkippedUnit,
    progress: Progress | None,
) -> tuple[list[Float32[np.ndarray, "skipped layer"]], list[Float32[np.ndarray, " skipped"]]]:
    """E and the output's change of every prompt, one layer skipped after the other; one prompt's streams are held."""
    influence, output = [], []
    reads = read_residuals(model, rows, sublayers=unit == "mlp", logits=True)
    for sample, (read, own) in enumerate(zip(reads, variants, strict=True)):
        assert read.logits is not None
        original = probabilities(read.logits)
        lines, bars = [], []
        for layer in range(read.n_layers):
            line, bar = skip_layer(model, read, original, layer, own, unit)
            lines.append(line)
            bars.append(bar)
            if progress is not None:
                progress(sample * read.n_layers + layer + 1, len(rows) * read.n_layers)
        influence.append(np.stack(lines))
        output.append(np.array(bars, dtype=np.float32))
    return influence, output


def skip_layer(
    model: Model,
    read: Residuals,
    original: Float32[Tensor, "pos vocab"],
    layer: int,
    variants: Variants,
    unit: SkippedUnit,
) -> tuple[Float32[np.ndarray, " layer"], float]:
    """Run on from the skipped layer: E from that layer on (NaN before it) and the output's change.

    The layer's own update counts too: of a block skipped where it is measured nothing is left, 1. Each is the largest
    over the variants. Where ``unit`` is ``"attn"`` the block's MLP reads what is left, where it is ``"mlp"`` the
    attention is as it was.
    """
    row = np.full(read.n_layers, np.nan, dtype=np.float32)
    start, before, hooks = _skipped_stream(read, layer, variants.skipped, unit)
    if start > layer:
        entered = read.stream[layer].float()
        own = read.left[layer + 1].float() - entered
        row[layer] = float(update_change(own, before.float() - entered, variants.measured).amax())

    def visit(reached: int, stream: Tensor) -> None:
        nonlocal before
        now = stream.to(read.stream.device).float()
        update = read.stream[reached].float() - read.stream[reached - 1].float()
        row[reached - 1] = float(update_change(update, now - before.float(), variants.measured).amax())
        before = now

    leaving = unit != "attn"
    logits = rerun(
        model, read.tokens, start, before, leaving=leaving, visit=visit, fwd_hooks=hooks, keep=variants.n_read
    )
    return row, float(output_change(original, logits.to(original.device), variants.measured).amax())


def _skipped_stream(
    read: Residuals, layer: int, skipped: Bool[Tensor, "variant pos"], unit: SkippedUnit
) -> tuple[int, Float[Tensor, "variant pos d_model"], list[ResidualHook]]:
    """Where to start, the stream that enters there, and the hook that an attention's skip needs."""
    where = skipped.unsqueeze(-1).to(read.stream.device)
    if unit == "attn":

        def silence(activation: Tensor, hook: Any) -> Tensor:
            return activation.masked_fill(where.to(activation.device), 0.0)

        entering = read.stream[layer].expand(len(skipped), -1, -1)
        return layer, entering, [(f"blocks.{layer}.hook_attn_out", silence)]
    if unit == "mlp":
        assert read.mlp_out is not None
        without = read.left[layer + 1] - read.mlp_out[layer]
    else:
        without = read.stream[layer]
    return layer + 1, torch.where(where, without, read.left[layer + 1]), []


def influence_dataset(
    influence: Sequence[Float32[np.ndarray, "skipped layer"]],
    output: Sequence[Float32[np.ndarray, " skipped"]],
    n_tokens: Sequence[int],
    attrs: Mapping[str, str | int],
    nan: Mapping[str, str] = NAN,
) -> xr.Dataset:
    """The labelled result: each sample's values, and the paper's aggregate, the maximum over samples."""
    by_layer, by_output = np.stack(influence), np.stack(output)
    n_samples, n_layers, _ = by_layer.shape
    layers = np.arange(n_layers)
    aggregate = {"aggregation": "max over samples"}
    return xr.Dataset(
        {
            "influence": (("sample", "skipped", "layer"), by_layer, {**_INFLUENCE, **nan}),
            "output_influence": (("sample", "skipped"), by_output, _OUTPUT),
            "max_influence": (("skipped", "layer"), by_layer.max(0), {**_INFLUENCE, **nan, **aggregate}),
            "max_output_influence": (("skipped",), by_output.max(0), _OUTPUT | aggregate),
        },
        coords={
            "sample": np.arange(n_samples),
            "skipped": ("skipped", layers, {"long_name": "layer skipped"}),
            "layer": ("layer", layers, {"long_name": "layer measured"}),
            "n_tokens": ("sample", np.asarray(n_tokens), {"long_name": "tokens of the sample"}),
        },
        attrs=dict(attrs),
    )
