"""What came out, in words: no sentence claims a difference that its interval and its test do not both support."""

import math
from collections.abc import Iterator

import pandas as pd

from lacscope.reproduction.scores._comparisons import CONTINUOUS, PRIMARY_ALPHA
from lacscope.reproduction.scores._conditions import RUN

P_LEVEL = 0.05
RANDOM = {"readout": ("permuted_exits",), "bypass": ("random_layers", "random_tokens")}
"""The controls that skip at random with LAC's budget, by effect."""

_FULL_WORDS = {
    "better": "skipping voids beats the full model",
    "worse": "skipping voids is worse than the full model",
    "open": "no difference from the full model is shown",
}
_CONTROL_WORDS = {"better": "LAC is better", "worse": "LAC is worse", "open": "no difference is shown"}
_CONTINUOUS_WORDS = {
    "target_logp": "log-probability of the right answer, nats per token",
    "margin": "margin of the right choice, nats",
    "kl": "KL to the full model, nats",
}


def verdict(comparisons: pd.DataFrame, null: pd.DataFrame | None = None) -> list[str]:
    """Whether skipping voids beats the full model, and the random skip of the same budget, with what certainty.

    A difference in accuracy is claimed where its 95 % interval leaves 0 out and its test has p < 0.05: the primary
    comparison as it is, every other one after Holm's correction. Differences of continuous outcomes are claimed by
    their interval alone, and the sentence says so.

    Args:
        comparisons: the table of :func:`lacscope.reproduction.scores.compare`.
        null: the table of :func:`lacscope.reproduction.scores.null_share`, for what is left over the norm-only null.

    Returns:
        Sentences, in order: where the primary comparison is missing; then for each model, task, style and scoring
        what is testable, ``readout`` and ``bypass``, each against the full model, against its controls, and by
        continuous outcomes; then what the norm-only null leaves over.

    >>> from lacscope.reproduction.scores._comparisons import compare
    >>> from lacscope.testing import synthetic_scores
    >>> verdict(compare(synthetic_scores(40, skill=0.0), draws=50))[0].split(": ")[1]
    'not testable on this task'
    """
    said = [
        f"{model}, {task}: the primary comparison (readout at alpha {PRIMARY_ALPHA:g}, choice accuracy) was not run."
        for (model, task), part in comparisons.groupby(["model", "task"], sort=False)
        if not part["primary"].any()
    ]
    for (model, task, style, scoring), part in comparisons.groupby(RUN, sort=False):
        where = f"{model}, {task} ({style} prompts, {scoring})"
        if not part["testable"].iloc[0]:
            said.append(_not_testable(where, part.iloc[0]))
            continue
        for effect in ("readout", "bypass"):
            rows = part[(part["effect"] == effect) & (part["rule"] == "lac")].sort_values("alpha")
            if rows.empty:
                continue
            against_full, against_controls = rows[rows["against"] == "full"], rows[rows["against"] != "full"]
            said += _against_full(f"{where}, {effect}", against_full)
            said += _against_controls(f"{where}, {effect}", effect, against_controls)
            said += _continuous(f"{where}, {effect}", against_full, against_controls)
        if null is not None:
            this = (null[RUN] == [model, task, style, scoring]).all(axis=1)
            said += [_null_sentence(where, row) for _, row in null[this].iterrows()]
    return said


def _not_testable(where: str, row: pd.Series) -> str:
    full = f"the full model's accuracy {row['full']:.3f} [{row['full_low']:.3f}, {row['full_high']:.3f}]"
    if math.isnan(row["constant"]):
        return f"{where}: not testable on this task: {full} is not told from 0. No verdict."
    return (
        f"{where}: not testable on this task: {full} does not stand above the best constant answer's "
        f"{row['constant']:.3f}. No verdict."
    )


def _against_full(where: str, rows: pd.DataFrame) -> list[str]:
    said = []
    for _, row in rows[rows["primary"]].iterrows():
        said.append(f"{where} at alpha {row['alpha']:g} (the primary comparison): {_full_words(row)}")
    rest = rows[~rows["primary"]]
    for why, same in rest[rest["identical"]].groupby("why", sort=False):
        said.append(f"{where} at alpha {_alphas(same)}: the full model, {why}; no result.")
    tested = rest[~rest["identical"]]
    for decision, words in _FULL_WORDS.items():
        chosen = tested[tested.apply(_decision, axis=1) == decision] if len(tested) else tested
        if len(chosen):
            numbers = "; ".join(f"alpha {row['alpha']:g}: {_numbers(row)}" for _, row in chosen.iterrows())
            said.append(f"{where}: {words} at {numbers}.")
    return said


def _full_words(row: pd.Series) -> str:
    if row["identical"]:
        return f"the full model, {row['why']}; no result."
    return f"{_FULL_WORDS[_decision(row)]}: {_numbers(row)}."


def _against_controls(where: str, effect: str, rows: pd.DataFrame) -> list[str]:
    said = []
    for alpha, part in rows.groupby("alpha"):
        at = f"{where} at alpha {alpha:g}"
        random = part[part["against"].isin(RANDOM[effect])]
        if len(random):
            said.append(f"{at}: {_random_words(random)}.")
        for _, row in part.iterrows():
            name = f"{row['against']}{' (first and last layer protected)' if row['against_protect'] else ''}"
            if row["identical"]:
                which = row["why"] if row["why"].startswith("the control") else f"LAC is the full model, {row['why']}"
                said.append(f"{at}, LAC against {name}: {which}; no result.")
                continue
            said.append(f"{at}, LAC against {name}: {_CONTROL_WORDS[_decision(row)]}: {_numbers(row)}.")
    return said


def _random_words(random: pd.DataFrame) -> str:
    tested = random[~random["identical"]]
    if tested.empty:
        return (
            "skipping voids cannot be compared with the random skip of the same budget: one of them is the full model"
        )
    decisions = tested.apply(_decision, axis=1)
    better, worse, n = int((decisions == "better").sum()), int((decisions == "worse").sum()), len(tested)
    if better == n:
        return "skipping voids beats the random skip of the same budget" + (f", in all {n} forms" if n > 1 else "")
    if worse == n:
        return "skipping voids is worse than the random skip of the same budget" + (
            f", in all {n} forms" if n > 1 else ""
        )
    if better or worse:
        return (
            f"against the random skip of the same budget, in {n} forms, skipping voids is better in {better}, worse in "
            f"{worse}, and not shown to differ in {n - better - worse}"
        )
    return "it is not shown that skipping voids differs from the random skip of the same budget"


def _continuous(where: str, against_full: pd.DataFrame, against_controls: pd.DataFrame) -> Iterator[str]:
    """At the primary alpha and where controls are: the differences of the continuous outcomes."""
    wanted = {PRIMARY_ALPHA, *against_controls["alpha"]}
    random = against_controls[against_controls["against"].isin([name for names in RANDOM.values() for name in names])]
    for _, row in pd.concat([against_full[against_full["alpha"].isin(wanted)], random]).iterrows():
        moved = [_outcome(row, name) for name in CONTINUOUS if not math.isnan(row[f"{name}_difference_low"])]
        if row["identical"] or not moved:
            continue
        other = "the full model" if row["against"] == "full" else row["against"]
        other += " (first and last layer protected)" if row["against_protect"] else ""
        yield (
            f"{where} at alpha {row['alpha']:g}, LAC less {other} (95 % intervals, not corrected for their number): "
            f"{'; '.join(moved)}."
        )


def _outcome(row: pd.Series, name: str) -> str:
    low, high = row[f"{name}_difference_low"], row[f"{name}_difference_high"]
    told = "" if low > 0 or high < 0 else " (not told from 0)"
    return f"{_CONTINUOUS_WORDS[name]}: {_interval(row, f'{name}_difference')}{told}"


def _null_sentence(where: str, row: pd.Series) -> str:
    at = f"{where}, {row['effect']} at alpha {row['alpha']:g}"
    if math.isnan(row["left_over"]):
        profile = f"there is no {row['phase']} usage profile to explain"
    else:
        profile = f"the norm-only null leaves {row['left_over']:.0%} of the {row['phase']} usage profile over"
    if row["why"]:
        return f"{at}: {profile}; accuracy: {row['why']}, no result."
    shown = "" if _decision(row) != "open" else " (no difference is shown)"
    return f"{at}: {profile}; LAC's accuracy less the null's is {_interval(row, 'difference')}{shown}."


def _decision(row: pd.Series) -> str:
    """ "better" or "worse" where the interval and the test both say so, else "open"."""
    p = row["p"] if row.get("primary", False) else row["p_adjusted"]
    if not p < P_LEVEL:
        return "open"
    if row["difference_low"] > 0:
        return "better"
    return "worse" if row["difference_high"] < 0 else "open"


def _numbers(row: pd.Series) -> str:
    p = f"p = {row['p']:.2g}" if row["primary"] else f"Holm-corrected p = {row['p_adjusted']:.2g}"
    missed = f"; a true difference under {row['detectable']:.3f} would likely be missed"
    return (
        f"accuracy {_interval(row, 'difference')}, {row['only_condition']} against {row['only_against']} discordant, "
        f"{p}, n = {row['n']}{missed if _decision(row) == 'open' and not math.isnan(row['detectable']) else ''}"
    )


def _interval(row: pd.Series, name: str) -> str:
    return f"{row[name]:+.3f} [{row[f'{name}_low']:+.3f}, {row[f'{name}_high']:+.3f}]"


def _alphas(rows: pd.DataFrame) -> str:
    return ", ".join(f"{alpha:g}" for alpha in rows["alpha"])
