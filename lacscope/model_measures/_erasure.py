"""Residual erasure: until which layer is a token's stream needed for the answer?"""

from typing import Any

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from lacscope.guards._arguments import whole_number
from lacscope.model_measures._answered import Answered, answer_logits, map_over_tokens, read_answered
from lacscope.model_measures._positions import kept_tokens
from lacscope.model_measures._residuals import Residuals, read_residuals, rerun
from lacscope.models._checks import check_blocks
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.models.adapters import without_gradients
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import Preset, Progress, result_attrs
from lacscope.tracing._inputs import read_inputs

CSORDAS_ERASURE = Preset(
    "csordas_2025/residual_erasure",
    "Csordás, Manning and Potts 2025, arXiv 2505.13898, residual erasure",
    {"mean_data": "GSM8K", "mean_prompts": 10, "exclude_sinks": False},
    read_in="code",
)


@without_gradients()
def residual_erasure(
    model: Model,
    inputs: Any,
    responses: Any,
    *,
    mean_over: Any,
    exclude_sinks: bool = False,
    batch_size: int = 16,
    data: str = "",
    mean_data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Change of the answer's probabilities when one token's stream is erased at one layer.

    h_l[t] is replaced by the mean of h_l over the tokens of other prompts, and layers l .. L-1 run on.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        responses: each prompt's answer: str or token ids.
        mean_over: prompts that the mean residuals are taken from (the paper's: 10 of GSM8K).
        exclude_sinks: True to leave sinks out of the mean residuals. The authors keep them, position 0 too, so that a
            few huge tokens make up much of the mean.
        batch_size: erased tokens run at once; changes no number beyond rounding.
        data: the name of the prompts, for the figure.
        mean_data: the name of the mean's prompts, likewise.
        progress: a function that is called with (states done, states in all), over all prompts.

    Returns:
        Dataset with ``effect`` (sample, state, token): max over the answer's tokens of ||p - p~||_2, between 0 and
        sqrt(2), NaN after a sample's end. State l is what enters layer l, state L what leaves the last one. Tokens
        run over prompt and answer; ``answer`` (sample, token) marks the answer's. The last token predicts none of
        the answer: its effect is 0.

    Drawn by :func:`lacscope.plots.plot_residual_erasure`.

    Raises:
        InputError: prompts or answers that cannot be read.
        ValueError: ``batch_size`` below 1, or no token left for the mean.

    Source: Csordás, Manning and Potts 2025 (arXiv 2505.13898), residual erasure; authors' code for the mean.

    >>> found = residual_erasure(model, "5 + 7 + 5 = ", "17", mean_over=gsm8k_prompts)  # doctest: +SKIP
    >>> found.effect.sel(sample=0)  # doctest: +SKIP
    """
    adapter = check_blocks(model)
    whole_number("batch_size", batch_size, least=1)
    samples = read_answered(adapter, inputs, responses)
    mean_rows = read_inputs(adapter, mean_over)
    mean = _mean_residual(model, mean_rows, exclude_sinks)
    n_states = adapter.n_layers + 1
    maps = []
    for index, read in enumerate(read_residuals(model, [sample.ids for sample in samples], logits=True)):
        rows = []
        for state in range(n_states):
            rows.append(_erase_each(model, read, samples[index], state, mean[state], batch_size))
            if progress is not None:
                progress(index * n_states + state + 1, len(samples) * n_states)
        maps.append(torch.stack(rows).cpu().numpy())
    ds = map_over_tokens(adapter, samples, "effect", maps)
    ds["effect"].attrs = {"long_name": "max over answer tokens of ||p - p~||", "units": "probability"}
    means_of = "all tokens but sinks" if exclude_sinks else "all tokens"
    ds.attrs = result_attrs(
        "residual_erasure",
        model_attrs(adapter),
        preset=CSORDAS_ERASURE,
        settings={"exclude_sinks": exclude_sinks, "mean_prompts": len(mean_rows), "mean_data": mean_data},
        positions=f"each token erased in turn, to the mean residual of {means_of} of {len(mean_rows)} other prompts",
        aggregation="max over the answer's tokens",
        n_samples=len(samples),
        data=data,
    )
    return ds


def _mean_residual(model: Model, rows: list[list[int]], exclude_sinks: bool) -> Float[Tensor, "state d_model"]:
    """Mean of each state over the tokens of all prompts; longer prompts weigh more, as in the authors' code."""
    total, count = torch.zeros(1), 0
    for read in read_residuals(model, rows):
        kept = kept_tokens(read, exclude_sinks)
        # On the CPU in double: sinks of 1e4 among norms of 1e2 would round away the rest of the sum.
        total = total + read.stream[:, kept].cpu().double().sum(1)
        count += int(kept.sum())
    if count == 0:
        raise ValueError(
            f"no token is left for the mean residual: the {len(rows)} prompts of mean_over= hold sinks alone. "
            "Give longer prompts, or exclude_sinks=False."
        )
    return total / count


def _erase_each(
    model: Model, read: Residuals, sample: Answered, state: int, mean: Float[Tensor, " d_model"], batch_size: int
) -> Float[Tensor, " pos"]:
    """Effect of erasing each token in turn at this state."""
    assert read.logits is not None
    probabilities = answer_logits(read.logits.unsqueeze(0), sample.n_answer).float().softmax(-1)
    stream = read.stream[state]
    found = []
    for erased in torch.arange(len(stream), device=stream.device).split(batch_size):
        variants = _with_erased(stream, erased, mean.to(stream))
        logits = rerun(model, read.tokens, state, variants, keep=sample.n_answer + 1)
        change = answer_logits(logits, sample.n_answer).float().softmax(-1) - probabilities
        found.append(torch.linalg.vector_norm(change, dim=-1).amax(-1))
    return torch.cat(found)


def _with_erased(
    stream: Float[Tensor, "pos d_model"], erased: Int[Tensor, " variant"], mean: Float[Tensor, " d_model"]
) -> Float[Tensor, "variant pos d_model"]:
    variants = stream.repeat(len(erased), 1, 1)
    variants[torch.arange(len(erased), device=stream.device), erased] = mean
    return variants


RESIDUAL_ERASURE = Measure(
    residual_erasure,
    "residual erasure",
    "change of the answer when one state is erased, by layer and token",
    plot="plot_residual_erasure",
    needs="answers",
    papers=(CSORDAS_ERASURE,),
    group="depth",
    command="erasure",
)
