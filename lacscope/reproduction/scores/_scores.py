"""The scores table, one row per (sample, condition), reduced to one row per condition.

Usage, exit depth and skippable compute stand side by side: none of them stands for another. A condition that cannot
differ from the full model, or did not, is told apart from a result.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from lacscope.reproduction.scores._conditions import by_seed, conditions, groups_of, identical_to_full
from lacscope.trace_analyses._statistics import (
    Interval,
    bootstrap_median,
    bootstrap_ratio,
    majority_share,
    paired_bootstrap,
    wilson_interval,
)


def summarise(scores: pd.DataFrame, *, seed: int = 0, draws: int = 2000) -> pd.DataFrame:
    """One row per condition: what it scored, how far it is from the full model, and what it used.

    Args:
        scores: per-sample scores of one run or more, with the full model's beside them.
        seed: the seed of the bootstrap.
        draws: resamplings of each bootstrap.

    Returns:
        A row per (model, task, style, scoring, effect, rule, alpha, protect). ``n`` samples and ``seeds``; shares in
        [0, 1]: ``accuracy``, ``accuracy_macro`` (mean over groups), ``unparseable``, ``agreement`` with the full
        model's answer; nats: ``target_logp`` (mean, per token of the right answer), ``margin`` and ``kl`` (medians);
        ``usage_prefill``, ``usage_prefill_no_sinks``, ``usage_decode`` (active over all pairs of token and layer),
        ``exit_*`` and ``skippable_*`` (means over tokens). ``_low`` and ``_high`` are 95 % intervals: Wilson's for the
        accuracy of one seed, else a bootstrap over samples (and seeds, where there are several). ``scored`` positions,
        ``early`` of which exit before the last block, ``n_early`` (answers with such a position), and on those alone
        ``accuracy_early``, ``accuracy_early_full`` (the full model's) and ``kl_early``. ``identical`` to the full
        model, and ``why``: "by construction" or "in every answer".

    Raises:
        ValueError: a missing column, a sample twice in a condition, or a run without its full model.

    >>> from lacscope.testing import synthetic_scores
    >>> summary = summarise(synthetic_scores(8), draws=50)
    >>> summary.loc[summary["effect"] == "observe", "why"].unique().tolist()
    ['by construction']
    """
    rows = []
    for key, found, full in conditions(scores):
        accuracy, interval = _accuracy(found, seed, draws)
        row = {
            **key,
            "n": found["sample"].nunique(),
            "seeds": found["seed"].nunique(),
            **_with_interval("accuracy", accuracy, interval),
            "accuracy_macro": _macro(found),
            "unparseable": float(found["unparseable"].mean()),
            "agreement": float(found["agrees"].mean()),
        }
        per_token = by_seed(found.assign(logp=found["target_logp"] / found["target_tokens"]), "logp").to_numpy()
        mean = float(per_token.mean()) if per_token.size else math.nan
        row |= _with_interval("target_logp", mean, paired_bootstrap(per_token, seed=seed, n=draws))
        for name, column in (("margin", "margin"), ("kl", "kl_to_full")):
            values = by_seed(found, column).to_numpy()
            median = float(np.median(values)) if values.size else math.nan
            row |= _with_interval(name, median, bootstrap_median(values, seed=seed, n=draws))
        why = identical_to_full(found, full)
        rows.append(row | _usage(found, seed, draws) | _early(found, full) | {"identical": bool(why), "why": why})
    return pd.DataFrame(rows)


def accuracy_by_group(scores: pd.DataFrame, names: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Accuracy of each condition in each group, such as MMLU's subjects, or what ``names`` calls them together.

    Returns:
        A row per (condition, group): ``n`` samples, ``accuracy``, and its 95 % interval (Wilson's; one seed only,
        else NaN).

    Raises:
        ValueError: the reasons of :func:`summarise`; or a group that ``names`` lacks.
    """
    missing = sorted(set(scores["group"]) - set(names)) if names is not None else []
    if missing:
        raise ValueError(f"names has no entry for {', '.join(map(repr, missing))}: name every group, or pass none.")
    rows = []
    for key, found, _ in conditions(scores):
        for group, part in found.groupby(found["group"].map(names) if names is not None else found["group"]):
            one = part["seed"].nunique() == 1
            interval = wilson_interval(int(part["correct"].sum()), len(part)) if one else (math.nan, math.nan)
            share = _with_interval("accuracy", float(part["correct"].mean()), interval)
            rows.append({**key, "group": group, "n": part["sample"].nunique(), **share})
    return pd.DataFrame(rows)


def usage_by_layer(scores: pd.DataFrame, *, effect: str = "observe", scoring: str | None = None) -> xr.Dataset:
    """LAC's usage by layer and phase at each alpha, tokens pooled over samples.

    Args:
        scores: the scores of one model, task and style.
        effect: the rows to take.
        scoring: the rows to take; default: generated answers where there are such rows (they have decode tokens).

    Returns:
        Dataset over (alpha, phase, layer): ``usage``, ``usage_no_sinks`` (prefill only differs) and ``relative``,
        ``usage`` divided by its phase's maximum over layers; coordinate ``n`` (tokens) over (alpha, phase). NaN where
        a phase has no token.

    Raises:
        ValueError: no such rows, or several models, tasks or styles.
    """
    rows = scores[(scores["rule"] == "lac") & (scores["effect"] == effect)]
    if scoring is None:
        scoring = "generated" if (rows["scoring"] == "generated").any() else "choice"
    rows = rows[rows["scoring"] == scoring]
    if rows.empty:
        there = scores[["scoring", "effect", "rule"]].drop_duplicates().agg(" ".join, axis=1)
        raise ValueError(f"no rows of LAC under {effect!r} scored by {scoring!r}; there are: {', '.join(there)}.")
    for column in ("model", "task", "style"):
        if rows[column].nunique() > 1:
            names = ", ".join(map(str, rows[column].unique()))
            raise ValueError(f"usage_by_layer takes one {column}, got {names}: select one first.")
    alphas, counts, kept, plain = [], [], [], []
    for alpha, part in rows.groupby("alpha"):
        alphas.append(float(alpha))
        counts.append([part["n_prefill"].sum(), part["n_decode"].sum()])
        kept.append([layer_counts(part, "prefill"), layer_counts(part, "decode")])
        plain.append((kept[-1][0] - layer_counts(part, "sink"), part["n_prefill"].sum() - part["n_sink"].sum()))
    n, active = np.array(counts, float), np.array(kept, float)
    usage = _shares(active, n[:, :, None])
    without = usage.copy()
    without[:, 0] = np.stack([_shares(above, np.float64(below)) for above, below in plain])
    top = usage.max(-1, keepdims=True)
    relative = np.divide(usage, top, out=np.full_like(usage, math.nan), where=top > 0)
    over = ("alpha", "phase", "layer")
    found = xr.Dataset(
        {"usage": (over, usage), "usage_no_sinks": (over, without), "relative": (over, relative)},
        coords={
            "alpha": alphas,
            "phase": ["prefill", "decode"],
            "layer": np.arange(usage.shape[-1]),
            "n": (("alpha", "phase"), n.astype(int)),
        },
    )
    return found.assign_attrs(model=rows["model"].iloc[0], task=rows["task"].iloc[0], effect=effect, scoring=scoring)


def reference_lines(scores: pd.DataFrame, chance: float | None, *, scoring: str = "choice") -> dict[str, float]:
    """What an accuracy is read against: ``full`` with ``full_low`` and ``full_high``, ``chance`` and ``majority``.

    ``majority`` is the share that the best constant answer gets right. It is NaN, as ``chance`` is where None, on a
    task without choices. ``scores`` is of one model, task and style.

    Raises:
        ValueError: no row of the full model scored in this way.
    """
    full = scores[(scores["effect"] == "none") & (scores["scoring"] == scoring)]
    if full.empty:
        raise ValueError(f"no row of the full model (effect 'none') scored by {scoring!r}: its lines are not known.")
    accuracy, (low, high) = _accuracy(full, 0, 0)
    lines = {"full": accuracy, "full_low": low, "full_high": high}
    return lines | {"chance": math.nan if chance is None else chance, "majority": best_constant(full)}


def best_constant(full: pd.DataFrame) -> float:
    """Share of the best constant answer among the rows' targets; NaN on a task with one choice, which is the answer."""
    if full["choice_logp"].map(len).max() < 2 and full["target"].max() < 1:
        return math.nan
    return majority_share(full["target"].to_numpy(int))[1]


def layer_counts(rows: pd.DataFrame, part: str) -> Float[np.ndarray, " layer"]:
    """Tokens of ``part`` ("prefill", "decode" or "sink") for which each layer is active, summed over the rows."""
    return np.stack(rows[f"active_{part}"].to_list()).sum(0).astype(float)


def _with_interval(name: str, value: float, interval: Interval) -> dict[str, float]:
    return {name: value, f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _accuracy(rows: pd.DataFrame, seed: int, draws: int) -> tuple[float, Interval]:
    right = by_seed(rows, "correct")
    if len(right) <= 1:
        interval = wilson_interval(int(right.to_numpy().sum()), right.size)
    else:
        interval = paired_bootstrap(right.to_numpy(), groups=groups_of(rows, right.columns), seed=seed, n=draws)
    return (float(right.to_numpy().mean()) if right.size else math.nan), interval


def _macro(rows: pd.DataFrame) -> float:
    return float(rows.groupby("group")["correct"].mean().mean()) if (rows["group"] != "").any() else math.nan


def _usage(rows: pd.DataFrame, seed: int, draws: int) -> dict[str, float]:
    found: dict[str, float] = {}
    pairs = pd.DataFrame({"sample": rows["sample"].to_numpy()})
    for part in ("prefill", "decode", "sink"):
        active = np.stack(rows[f"active_{part}"].to_list()).astype(float)
        pairs[f"active_{part}"] = active.sum(1)
        pairs[f"all_{part}"] = rows[f"n_{part}"].to_numpy() * active.shape[1]
    each = pairs.groupby("sample").sum().astype(float)
    each["active_prefill_no_sinks"] = each["active_prefill"] - each["active_sink"]
    each["all_prefill_no_sinks"] = each["all_prefill"] - each["all_sink"]
    for part in ("prefill", "prefill_no_sinks", "decode"):
        above, below = each[f"active_{part}"].to_numpy(), each[f"all_{part}"].to_numpy()
        share = float(above.sum() / below.sum()) if below.sum() else math.nan
        found |= _with_interval(f"usage_{part}", share, bootstrap_ratio(above, below, seed=seed, n=draws))
        own = above[below > 0] / below[below > 0]
        found[f"usage_{part}_by_sample"] = float(own.mean()) if len(own) else math.nan
    for phase in ("prefill", "decode"):
        tokens = rows[f"n_{phase}"].to_numpy(float)
        for name in ("exit", "skippable"):
            values = np.where(tokens > 0, rows[f"{name}_{phase}"].to_numpy(float), 0.0)
            found[f"{name}_{phase}"] = float((values * tokens).sum() / tokens.sum()) if tokens.sum() else math.nan
    return found


def _early(rows: pd.DataFrame, full: pd.DataFrame) -> dict[str, int | float]:
    exits = rows[rows["early"] > 0]
    reference = full.set_index("sample")["correct"].reindex(exits["sample"])
    return {
        "scored": int(rows["scored"].sum()),
        "early": int(rows["early"].sum()),
        "n_early": len(exits),
        "accuracy_early": float(exits["correct"].mean()) if len(exits) else math.nan,
        "accuracy_early_full": float(reference.mean()) if len(exits) else math.nan,
        "kl_early": float(exits["kl_to_full"].median()) if exits["kl_to_full"].notna().any() else math.nan,
    }


def _shares(counts: np.ndarray, n: np.ndarray | np.float64) -> np.ndarray:
    """Counts over n, NaN where nothing was counted."""
    return np.divide(counts, n, out=np.full(np.shape(counts), np.nan), where=n > 0)
