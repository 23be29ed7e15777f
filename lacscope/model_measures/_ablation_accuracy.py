"""Right answers with one block at a time bypassed. See :mod:`lacscope.model_measures` for what is bypassed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from lacscope.model_measures._bypassed import (
    PER_SAMPLE,
    AblatedPhase,
    Sample,
    bypassed_at,
    check_settings,
    positions_bypassed,
    without_each,
)
from lacscope.model_measures._choices import choice_rows, score_choices
from lacscope.model_measures._residuals import read_residuals
from lacscope.models._checks import check_blocks
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter, without_gradients
from lacscope.tasks._base import Question
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import Progress, result_attrs
from lacscope.tracing._inputs import InputError


def ablation_accuracy(
    model: Model,
    questions: Sequence[Question],
    *,
    phase: AblatedPhase = "all",
    window: tuple[int, int] | None = None,
    batch_size: int = 8,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Whether each question is answered right by log-probability of its choices, with one block at a time bypassed.

    By default the block does not run for any token of prompt and choices.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        questions: the questions of a task's ``questions(...)``, with choices; scored as
            :func:`lacscope.model_measures.score_choices` does.
        phase: the tokens at which the block is bypassed: ``"all"``, the prompt's (``"prefill"``) or the choice's
            (``"decode"``). A choice's first token is predicted by the prompt's last: in decode its probability never
            changes, so choices of one token do not either.
        window: the positions ``start <= p < stop`` of prompt and choice at which layers are bypassed; default: all.
        batch_size: rows (prompt and one choice) of a forward pass. With a phase or a window the rows are read one by
            one, and each layer's rerun starts after it.
        data: the name of the questions, for the figure.
        progress: a function that is called with (layers done, layers); with a phase or a window (rows done, rows).

    Returns:
        Dataset over (sample, layer): ``correct`` (bool), ``target_logp`` (nats; the right choice's log-probability,
        ablated less full); over sample ``full_correct`` (bool). ``sample`` is the questions' own number.

    Drawn by :func:`lacscope.plots.plot_ablation_accuracy`.

    Raises:
        ValueError: a question without choices, or settings that do not go together.
        InputError: a prompt that does not fit the context with its answer, or ends before the window with it.

    >>> found = ablation_accuracy(model, questions)  # doctest: +SKIP
    >>> found["correct"].mean("sample") - found["full_correct"].mean("sample")  # change of accuracy  # doctest: +SKIP
    """
    adapter = check_blocks(model)
    check_settings(questions, phase, window, None)
    full = score_choices(model, questions, batch_size=batch_size)
    if phase == "all" and window is None:
        tables = _scores_without_each(adapter, questions, batch_size, progress)
    else:
        tables = _scores_bypassed_at(adapter, questions, phase, window, progress)
    correct = [found["correct"].to_numpy(dtype=bool) for found in tables]
    logp = [(found["target_logp"] - full["target_logp"]).to_numpy(dtype=np.float64) for found in tables]
    ds = xr.Dataset(
        {
            "correct": (PER_SAMPLE, np.stack(correct, axis=1), {"long_name": "right without the layer", "units": "1"}),
            "target_logp": (
                PER_SAMPLE,
                np.stack(logp, axis=1),
                {"long_name": "change of the right choice's log-probability without the layer", "units": "nats"},
            ),
            "full_correct": (
                "sample",
                full["correct"].to_numpy(dtype=bool),
                {"long_name": "right with all layers", "units": "1"},
            ),
        },
        {"sample": full["sample"].to_numpy(), "layer": np.arange(adapter.n_layers)},
    )
    ds.attrs = result_attrs(
        "ablation_accuracy",
        model_attrs(adapter),
        preset=None,
        settings={"phase": phase, "window": window},
        positions=f"bypassed at {positions_bypassed(phase, window, 'choice')}; predicted: the choices",
        aggregation="one value a question",
        n_samples=len(full),
        data=data,
    )
    return ds


def _scores_without_each(
    adapter: Adapter, questions: Sequence[Question], batch_size: int, progress: Progress | None
) -> list[pd.DataFrame]:
    found = []
    for layer in range(adapter.n_layers):
        with adapter.not_running([layer]):
            found.append(score_choices(adapter.model, questions, batch_size=batch_size))
        if progress is not None:
            progress(layer + 1, adapter.n_layers)
    return found


@without_gradients()
def _scores_bypassed_at(
    adapter: Adapter,
    questions: Sequence[Question],
    phase: str,
    window: tuple[int, int] | None,
    progress: Progress | None,
) -> list[pd.DataFrame]:
    rows = choice_rows(adapter, questions)
    shortest = min(len(ids) for ids in rows.tokens)
    if window is not None and window[0] >= shortest:
        raise InputError(f"a prompt has {shortest} tokens with its choice, none of them in the window {window}.")
    logp = np.zeros((adapter.n_layers, len(rows.places)))
    likeliest = np.zeros(logp.shape, dtype=int)
    reads = read_residuals(adapter, rows.tokens)
    for row, (ids, n_prompt, read) in enumerate(zip(rows.tokens, rows.prompt_lengths, reads, strict=True)):
        sample = Sample(ids, n_prompt - 1, bypassed_at(n_prompt, len(ids), phase, window))
        targets = read.tokens[n_prompt:]
        for layer, found in enumerate(without_each(adapter, sample, read)):
            logp[layer, row] = float(found.gather(-1, targets.unsqueeze(-1)).cpu().double().sum())
            likeliest[layer, row] = int((found.argmax(-1) == targets).sum())
        if progress is not None:
            progress(row + 1, len(rows.places))
    return [rows.table(*of_layer) for of_layer in zip(logp, likeliest, strict=True)]


ABLATION_ACCURACY = Measure(
    ablation_accuracy,
    "ablation accuracy",
    "right answers when a block is bypassed",
    plot="plot_ablation_accuracy",
    needs="questions",
    group="importance",
)
