"""Each condition against the full model, and LAC against its controls, on the samples that both have.

One comparison per model and task is the primary one, fixed before any result: ``readout`` at alpha 0.8, choice
accuracy, against the full model, because that is what the paper's published code does at the alpha it reports. It
stands uncorrected; all others of that model and task are corrected together by Holm's method.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from lacscope.reproduction.scores._conditions import RUN, by_seed, conditions, groups_of, identical_to_full
from lacscope.reproduction.scores._scores import best_constant
from lacscope.trace_analyses._statistics import (
    McNemar,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    smallest_detectable_difference,
    wilson_interval,
)

PRIMARY = {"effect": "readout", "rule": "lac", "scoring": "choice", "against": "full"}
PRIMARY_ALPHA = 0.8
PRIMARY_STYLE = "paper"
CONTINUOUS = {"target_logp": "logp_per_token", "margin": "margin", "kl": "kl_to_full"}
"""Continuous outcomes of a comparison, and the columns that they are the mean difference of."""

Compared = tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]


class _Paired(NamedTuple):
    """Both sides' values by seed on the samples that both have, and their differences for each pair of seeds."""

    samples: pd.Index
    ours: Float[np.ndarray, "first n"]
    theirs: Float[np.ndarray, "second n"]
    differences: Float[np.ndarray, "seed n"]


def compare(scores: pd.DataFrame, *, seed: int = 0, draws: int = 2000) -> pd.DataFrame:
    """Every condition against the full model, and LAC against each control of its effect and alpha.

    Args:
        scores: the per-sample scores of one run or more, the full model's and the controls' among them.
        seed: the seed of the bootstrap.
        draws: resamplings of each bootstrap.

    Returns:
        A row per comparison of ``rule`` (with ``effect``, ``alpha``, ``protect``) against ``against`` ("full" or a
        control, with ``against_protect``), on ``n`` shared samples. ``accuracy``, ``accuracy_against`` and their
        ``difference`` with a 95 % interval (``_low``, ``_high``: paired bootstrap over samples, over seeds too where
        there are several, within groups). Exact McNemar ``p`` with the discordant counts ``only_condition`` and
        ``only_against``; of several seeds the largest p, with its counts. ``p_adjusted`` (Holm, over the model and
        task; NaN for the ``primary`` one). ``target_logp_difference`` (nats per token), ``margin_difference`` and
        ``kl_difference`` (nats): mean paired differences with intervals, not corrected. ``detectable``: the smallest
        difference found with 80 % power at this n and discordant share. ``identical`` and ``why``: one side is the
        full model, so that there is no p. ``testable``: the full model's accuracy (``full``, ``full_low``,
        ``full_high``) stands above the best constant answer's (``constant``, NaN on a task without choices: 0 then).

    Raises:
        ValueError: the reasons of :func:`lacscope.reproduction.scores.summarise`.

    >>> from lacscope.testing import synthetic_scores
    >>> found = compare(synthetic_scores(8), draws=50)
    >>> found.loc[found["primary"], ["effect", "alpha", "against"]].values.tolist()
    [['readout', 0.8, 'full']]
    """
    rows = [
        {**key, **_compared(first, second, full, seed, draws)}
        for key, first, second, full in _pairs(list(conditions(scores)))
    ]
    found = pd.DataFrame(rows)
    if found.empty:
        return found
    found["primary"] = _is_primary(found)
    tested = found["p"].where(~found["primary"])
    found["p_adjusted"] = tested.groupby([found["model"], found["task"]]).transform(lambda p: holm(p.to_numpy(float)))
    return found


def _pairs(every: list[Compared]) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
    """(key, the condition's rows, the other side's rows, the full model's rows) of each comparison."""
    whole = {tuple(key[name] for name in RUN): rows for key, rows, _ in every if key["effect"] == "none"}
    lac = {_budget(key): (key, rows) for key, rows, _ in every if key["rule"] == "lac" and not key["protect"]}
    for key, rows, _ in every:
        if key["effect"] in ("none", "observe"):
            continue
        full = whole[tuple(key[name] for name in RUN)]
        yield {**key, "against": "full", "against_protect": False}, rows, full, full
        if key["rule"] != "lac" and _budget(key) in lac:
            lac_key, lac_rows = lac[_budget(key)]
            yield {**lac_key, "against": key["rule"], "against_protect": key["protect"]}, lac_rows, rows, full


def _budget(key: dict[str, Any]) -> tuple[Any, ...]:
    """What LAC and a control matched to it have in common."""
    return (*(key[name] for name in RUN), key["effect"], round(float(key["alpha"]), 9))


def _compared(first: pd.DataFrame, second: pd.DataFrame, full: pd.DataFrame, seed: int, draws: int) -> dict[str, Any]:
    right = _paired(first, second, "correct")
    n = len(right.samples)
    why = _why_identical(first, second, full)
    test = McNemar(math.nan, 0, 0) if why or not n else _worst_mcnemar(right)
    low, high = paired_bootstrap(right.differences, groups=groups_of(first, right.samples), seed=seed, n=draws)
    row: dict[str, Any] = {
        "n": n,
        "seeds": len(right.differences),
        "accuracy": _mean(right.ours),
        "accuracy_against": _mean(right.theirs),
        "difference": _mean(right.differences),
        "difference_low": low,
        "difference_high": high,
        "p": test.p,
        "only_condition": test.only_a,
        "only_against": test.only_b,
        "detectable": smallest_detectable_difference(n, _mean(np.abs(right.differences))) if n else math.nan,
        "identical": bool(why),
        "why": why,
        **_testable(full),
    }
    for name, column in CONTINUOUS.items():
        moved = _paired(first, second, column)
        low, high = paired_bootstrap(moved.differences, groups=groups_of(first, moved.samples), seed=seed, n=draws)
        row |= {f"{name}_difference": _mean(moved.differences)}
        row |= {f"{name}_difference_low": low, f"{name}_difference_high": high}
    return row


def _paired(first: pd.DataFrame, second: pd.DataFrame, column: str) -> _Paired:
    both = [
        by_seed(rows.assign(logp_per_token=rows["target_logp"] / rows["target_tokens"]), column)
        for rows in (first, second)
    ]
    samples = both[0].columns.intersection(both[1].columns)
    ours, theirs = (values[samples].to_numpy() for values in both)
    differences = (ours[:, None] - theirs[None]).reshape(len(ours) * len(theirs), len(samples))
    return _Paired(samples, ours, theirs, differences)


def _mean(values: Float[np.ndarray, "seed n"]) -> float:
    return float(values.mean()) if values.size else math.nan


def _worst_mcnemar(right: _Paired) -> McNemar:
    """The weakest of the seeds' tests: seeds share their samples, so their counts must not be added up."""
    return max((mcnemar_exact(a > 0, b > 0) for a in right.ours for b in right.theirs), key=lambda test: test.p)


def _why_identical(first: pd.DataFrame, second: pd.DataFrame, full: pd.DataFrame) -> str:
    """Which side is the full model, so that the comparison says nothing of the other's skipping."""
    ours, theirs = identical_to_full(first, full), identical_to_full(second, full)
    if theirs:
        return f"the control is identical to the full model ({theirs})"
    return f"identical {ours}" if ours else ""


def _testable(full: pd.DataFrame) -> dict[str, Any]:
    right = int(full["correct"].sum())
    low, high = wilson_interval(right, len(full))
    constant = best_constant(full)
    above = low > (0.0 if math.isnan(constant) else constant)
    return {"full": right / len(full), "full_low": low, "full_high": high, "constant": constant, "testable": above}


def _is_primary(found: pd.DataFrame) -> pd.Series:
    primary = ((found["alpha"] - PRIMARY_ALPHA).abs() < 1e-9) & ~found["protect"]
    for column, value in PRIMARY.items():
        primary &= found[column] == value
    # Of several styles, one: the paper's where it was run.
    first = found.groupby(["model", "task"])["style"].transform(
        lambda styles: PRIMARY_STYLE if PRIMARY_STYLE in set(styles) else min(styles)
    )
    return primary & (found["style"] == first)
