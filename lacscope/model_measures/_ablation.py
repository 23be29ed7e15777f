"""Causal ablation: what bypassing one block changes in the model's predictions.

See :mod:`lacscope.model_measures` for what is bypassed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from lacscope.model_measures._bypassed import (
    PER_SAMPLE,
    AblatedPhase,
    Sample,
    bypassed_at,
    check_settings,
    positions_bypassed,
    without_each,
)
from lacscope.model_measures._importance_results import ORIENTATION
from lacscope.model_measures._residuals import Residuals, read_residuals
from lacscope.models._checks import check_blocks
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter, without_gradients
from lacscope.traces._measure import Measure, Ranking
from lacscope.traces._provenance import Progress, result_attrs
from lacscope.traces._spread import with_spread
from lacscope.tracing._inputs import InputError, read_inputs, read_responses


@without_gradients()
def causal_ablation(
    model: Model,
    inputs: Any,
    *,
    responses: Sequence[Any] | str | None = None,
    phase: AblatedPhase = "all",
    window: tuple[int, int] | None = None,
    max_tokens: int | None = None,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Change of loss, and KL divergence to the full model, when one block at a time is bypassed.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them. Without ``responses`` each prompt's own next tokens
            are predicted.
        responses: given answers, one an input: then only their tokens are predicted, from the prompt's last on.
        phase: the tokens at which the block is bypassed: ``"all"`` that are read, the prompt's (``"prefill"``) or the
            response's (``"decode"``). Which predictions are scored does not depend on it. In decode the response's
            first token is predicted by the prompt's last, so its prediction never changes.
        window: the positions ``start <= p < stop`` of each sample at which layers are bypassed; default: all.
        max_tokens: the number of tokens that are read of each prompt, from its first; not with ``responses``.
        data: the name of the prompts, for the figure.
        progress: a function that is called with (prompts done, prompts).

    Returns:
        Dataset over (sample, layer): ``loss`` (nats per token, ablated less full; negative where the model predicts
        better without the block) and ``kl`` (nats, KL(full || ablated)), both means over the scored predictions; over
        sample: ``full_loss`` (nats per token) and ``n_tokens`` (predictions scored).

    Drawn by :func:`lacscope.plots.plot_ablation`.

    Raises:
        InputError: inputs that cannot be read, a prompt without a next token, or shorter than the window's start.
        ValueError: settings that do not go together.

    >>> from lacscope.testing import tiny_model
    >>> dict(causal_ablation(tiny_model(), [5, 17, 3, 60])["kl"].sizes)
    {'sample': 1, 'layer': 4}
    """
    adapter = check_blocks(model)
    check_settings(responses, phase, window, max_tokens)
    samples = _samples(adapter, inputs, responses, phase, window, max_tokens)
    shape = (len(samples), adapter.n_layers)
    loss, kl, full_loss = np.empty(shape), np.empty(shape), np.empty(len(samples))
    reads = read_residuals(model, [sample.ids for sample in samples], logits=True)
    for i, (sample, read) in enumerate(zip(samples, reads, strict=True)):
        full_loss[i], loss[i], kl[i] = _ablated(model, sample, read)
        if progress is not None:
            progress(i + 1, len(samples))
    ds = xr.Dataset(
        {
            "loss": (PER_SAMPLE, loss, {"long_name": "change of loss without the layer", "units": "nats per token"}),
            "kl": (PER_SAMPLE, kl, {"long_name": "KL(full || without the layer)", "units": "nats"}),
            "full_loss": ("sample", full_loss, {"long_name": "loss of the full model", "units": "nats per token"}),
        },
        {
            "sample": np.arange(len(samples)),
            "layer": np.arange(adapter.n_layers),
            "n_tokens": ("sample", [sample.n_predicted for sample in samples], {"units": "tokens"}),
        },
    )
    ds.attrs = result_attrs(
        "causal_ablation",
        model_attrs(adapter),
        preset=None,
        settings={"phase": phase, "window": window, "max_tokens": max_tokens, "responses": responses is not None},
        positions=_positions(phase, window, responses is not None),
        aggregation="mean over the predicted tokens of each sample",
        n_samples=len(samples),
        data=data,
    ) | {"importance": "kl", "orientation": ORIENTATION}
    return with_spread(ds)


def _samples(
    adapter: Adapter,
    inputs: Any,
    responses: Sequence[Any] | str | None,
    phase: str,
    window: tuple[int, int] | None,
    max_tokens: int | None,
) -> list[Sample]:
    prompts = [ids[:max_tokens] for ids in read_inputs(adapter, inputs)]
    answers: list[list[int]] = [[] for _ in prompts]
    if responses is not None:
        answers = read_responses(adapter, responses, len(prompts))
    samples = []
    for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        n_tokens = len(prompt) + len(answer)
        if n_tokens < 2:
            raise InputError(f"prompt {index} has one token, so no next token to predict: give a longer one.")
        if window is not None and window[0] >= n_tokens:
            raise InputError(f"prompt {index} has {n_tokens} tokens, none of them in the window {window}.")
        bypassed = bypassed_at(len(prompt), n_tokens, phase, window)
        samples.append(Sample(prompt + answer, len(prompt) - 1 if answer else 0, bypassed))
    return samples


def _ablated(
    model: Model, sample: Sample, read: Residuals
) -> tuple[float, Float[np.ndarray, " layer"], Float[np.ndarray, " layer"]]:
    """Loss of the full model, and by layer the change of loss and the divergence without it."""
    assert read.logits is not None
    targets = read.tokens[sample.first + 1 :]
    full = torch.log_softmax(read.logits[sample.first : -1].float(), dim=-1)
    full_loss = mean_loss(full, targets)
    loss, kl = np.empty(read.n_layers), np.empty(read.n_layers)
    for layer, found in enumerate(without_each(model, sample, read)):
        loss[layer] = mean_loss(found, targets) - full_loss
        kl[layer] = float((full.exp() * (full - found)).sum(-1).cpu().double().mean())
    return full_loss, loss, kl


def mean_loss(log_probs: Float[Tensor, "pos vocab"], targets: Int[Tensor, " pos"]) -> float:
    return -float(log_probs.gather(-1, targets.unsqueeze(-1)).cpu().double().mean())


def _positions(phase: str, window: tuple[int, int] | None, answered: bool) -> str:
    where = positions_bypassed(phase, window, "response")
    return f"bypassed at {where}; predicted: the {'response' if answered else 'prompt'}'s tokens"


CAUSAL_ABLATION = Measure(
    causal_ablation,
    "ablation",
    "change of loss and KL when a block is bypassed",
    plot="plot_ablation",
    parts="each",
    rankings={"ablation KL": Ranking("kl"), "ablation loss": Ranking("loss")},
    group="importance",
    command="ablation",
)
