"""Integrated gradients of the answer's probability, by state and token."""

from typing import Any, Literal

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from lacscope.guards._arguments import one_of, whole_number
from lacscope.model_measures._answered import Answered, answer_logits, map_over_tokens, read_answered
from lacscope.model_measures._csordas_prompts import CSORDAS_QUESTIONS_DATA
from lacscope.model_measures._residuals import ResidualHook, Residuals, read_residuals, rerun
from lacscope.model_measures._skip_influence import SKIPPED_UNITS, SkippedUnit
from lacscope.models._checks import check_blocks, require_derivatives
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.models.adapters import with_gradients, without_gradients
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import Preset, Progress, result_attrs

Points = Literal["left", "midpoint"]
CSORDAS_GRADIENTS = Preset(
    "csordas_2025/integrated_gradients",
    "Csordás, Manning and Potts 2025, arXiv 2505.13898, integrated gradients",
    {"data": CSORDAS_QUESTIONS_DATA, "steps": 256, "points": "left"},
    read_in="code",
)


def integrated_gradients(
    model: Model,
    inputs: Any,
    responses: Any,
    *,
    unit: SkippedUnit = "block",
    steps: int = 256,
    points: Points = "left",
    batch_size: int = 16,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """How much of the answer's probability each token's stream, or what a sublayer adds to it, brings at each layer.

    The target F is the sum of the probabilities of the answer's tokens, each given what stands before it. At each
    state the path leads straight from the baseline b, the mean of h_l over the sequence at every position, to h_l; for
    a sublayer from the mean of its output to its output. So
    attribution[t] = sum over d_model of (h_l - b)[t] * mean over the path of dF/dh[t].

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        responses: each prompt's answer: str or token ids.
        unit: ``"block"``: along the residual stream, state by state; ``"attn"`` or ``"mlp"``: along what each layer's
            attention or MLP adds to it, the stream that it is added to being as it was. The authors draw all three.
        steps: points on the path.
        points: ``"left"``: at k / steps, k = 0 .. steps - 1, as in the authors' code; ``"midpoint"``: at
            (k + 1/2) / steps, which comes closer with as many steps.
        batch_size: points run at once; changes no number beyond rounding.
        data: the name of the prompts, for the figure.
        progress: a function that is called with (states done, states in all), over all prompts.

    Returns:
        Dataset with ``attribution`` (sample, state, token), in probability, NaN after a sample's end; and ``change``
        (sample, state) = F(h_l) - F(b), which the attributions of a state sum to up to the error of the sum over
        steps (completeness). State l is what enters layer l; the authors' row of layer l is its output, state l+1. Of a
        sublayer the dimension is ``layer`` instead of ``state``: row l is layer l, as the authors have it.

    Drawn by :func:`lacscope.plots.plot_integrated_gradients`.

    Raises:
        InputError: prompts or answers that cannot be read.
        ValueError: ``steps`` or ``batch_size`` below 1, unknown ``points``, or an unknown ``unit``.
        UnsupportedModelError: quantised weights, through which there are no derivatives to rely on; a sublayer of a
            model whose hook points are not the parts of its blocks.

    The prompts of the paper are :data:`CSORDAS_QUESTIONS`.

    Source: Sundararajan, Taly and Yan 2017, equation 3; Csordás, Manning and Potts 2025 (arXiv 2505.13898).

    >>> found = integrated_gradients(model, "5 + 7 + 5 = ", "17")  # doctest: +SKIP
    >>> found.attribution.sum("token") - found.change  # near 0  # doctest: +SKIP
    """
    adapter = check_blocks(model)
    ratios = _ratios(steps, points)
    whole_number("batch_size", batch_size, least=1)
    if unit not in SKIPPED_UNITS:
        raise ValueError(f"unit is one of {', '.join(map(repr, SKIPPED_UNITS))}, got {unit!r}.")
    require_derivatives(adapter)
    samples = read_answered(adapter, inputs, responses)
    n_states = adapter.n_layers + (unit == "block")
    maps, changes = [], []
    reads = read_residuals(model, [sample.ids for sample in samples], sublayers=unit != "block")
    for index, read in enumerate(reads):
        rows, ends = [], []
        for state in range(n_states):
            path = _Path(model, read, samples[index], state, unit)
            rows.append(path.attribute(ratios, batch_size))
            ends.append(path.change())
            if progress is not None:
                progress(index * n_states + state + 1, len(samples) * n_states)
        maps.append(torch.stack(rows).cpu().numpy())
        changes.append(torch.stack(ends).cpu().numpy())
    ds = map_over_tokens(adapter, samples, "attribution", maps)
    ds["attribution"].attrs = {"long_name": "integrated gradient of the answer's probability", "units": "probability"}
    change = {"long_name": "F(h) - F(mean of the sequence)", "units": "probability"}
    ds = ds.assign(change=(("sample", "state"), changes, change))
    ds.attrs = result_attrs(
        "integrated_gradients",
        model_attrs(adapter),
        preset=CSORDAS_GRADIENTS,
        settings={"unit": unit, "steps": steps, "points": points},
        positions="each token of prompt and answer, baseline the mean over the sequence",
        aggregation="target: sum of the answer tokens' probabilities",
        n_samples=len(samples),
        data=data,
    ) | {"unit": unit}
    return ds if unit == "block" else ds.rename(state="layer")


def _ratios(steps: int, points: str) -> Float[Tensor, " step"]:
    offsets = {"left": 0.0, "midpoint": 0.5}
    one_of("points", points, offsets)
    whole_number("steps", steps, least=1)
    return (torch.arange(steps) + offsets[points]) / steps


class _Path:
    """The straight line from the mean of the sequence to one state of one prompt, or to what a sublayer adds."""

    def __init__(self, model: Model, read: Residuals, sample: Answered, state: int, unit: SkippedUnit) -> None:
        self._model, self._read, self._sample, self._state, self._unit = model, read, sample, state, unit
        ends = {"block": read.stream, "attn": read.attn_out, "mlp": read.mlp_out}[unit]
        assert ends is not None
        self._end = ends[state]
        self._start = self._end.mean(0, keepdim=True).expand_as(self._end)

    def attribute(self, ratios: Float[Tensor, " step"], batch_size: int) -> Float[Tensor, " pos"]:
        gradient = torch.zeros_like(self._end, dtype=torch.float32)
        for part in ratios.to(self._end.device).split(batch_size):
            with with_gradients():
                streams = self._between(part).requires_grad_()
                # Of the streams alone: backward() would leave gradients on the model's weights.
                (slope,) = torch.autograd.grad(self._target(streams).sum(), streams)
            gradient += slope.float().sum(0)
        return ((self._end - self._start).float() * gradient).sum(-1) / len(ratios)

    @without_gradients()
    def change(self) -> Float[Tensor, ""]:
        start, end = self._target(torch.stack([self._start, self._end]))
        return end - start

    def _between(self, ratios: Float[Tensor, " step"]) -> Float[Tensor, "step pos d_model"]:
        return torch.lerp(self._start, self._end, ratios.to(self._end)[:, None, None])

    def _target(self, streams: Float[Tensor, "step pos d_model"]) -> Float[Tensor, " step"]:
        """Sum of the probabilities of the answer's tokens."""
        n_answer = self._sample.n_answer
        hooks: list[ResidualHook] = []
        entering = streams
        if self._unit != "block":
            hooks = [(f"blocks.{self._state}.hook_{self._unit}_out", lambda activation, hook: streams)]
            entering = self._read.stream[self._state].expand(len(streams), -1, -1)
        logits = rerun(self._model, self._read.tokens, self._state, entering, fwd_hooks=hooks, keep=n_answer + 1)
        probabilities = answer_logits(logits, n_answer).float().softmax(-1)
        ids = self._sample.answer.to(logits.device).expand(len(streams), -1)
        return probabilities.gather(-1, ids.unsqueeze(-1)).sum((-2, -1))


INTEGRATED_GRADIENTS = Measure(
    integrated_gradients,
    "integrated gradients",
    "integrated gradients of the answer, by layer and token",
    plot="plot_integrated_gradients",
    needs="answers",
    papers=(CSORDAS_GRADIENTS,),
    group="depth",
    command="gradients",
)
