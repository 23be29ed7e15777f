"""Curves of "Transformer Layers as Painters": how much of each task's score is left under a plan."""

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from lacscope.trace_analyses._bootstrap import resampled
from lacscope.trace_analyses._statistics import paired_bootstrap
from lacscope.traces._measure import Measure

FULL_MODEL = "full"
_KEY = ["kind", "start"]


def painters_curves(
    scores: pd.DataFrame, chance: Mapping[str, float], *, n_boot: int = 1000, seed: int = 0
) -> xr.Dataset:
    """Each task's score normalised so that chance is 0 and the full model 1, and the median over tasks.

    Args:
        scores: a row per (task, kind, start, seed, sample) with a ``score`` in [0, 1]; the full model's rows have
            the kind ``"full"``. ``seed`` is -1 where a plan draws nothing. ``times``, where it stands there, is one
            number for each kind.
        chance: expected score of a blind guess, for each task.
        n_boot: bootstrap draws of samples, the same in every plan and in the full model.
        seed: the seed of the bootstrap.

    Returns:
        Dataset with ``score`` (task, kind, start), mean over samples and seeds; ``full`` (task); ``normalised``
        (task, kind, start); ``median`` (kind, start) over the tasks with ``median_low`` and ``median_high`` (95 %,
        samples drawn, seeds held: the luck of a drawn plan is not in it; without the draws in which the full model of
        a task is not above chance); ``n`` (task), samples. A task whose full
        model is not surely above chance (95 % interval) is NaN in ``normalised``, takes no part in the median and is
        named in the attribute ``not_testable``. Where a task that takes part lacks a (kind, start), the median is NaN
        there, not one of fewer tasks.

    Drawn by :func:`lacscope.plots.plot_painters_curves`.

    Raises:
        ValueError: no rows of the full model, or several that differ, a task without chance, plans scored on
            different samples, or one kind with several ``times``.

    Source: Sun et al. 2024 (arXiv 2407.09298), section 2.

    >>> rows = [("t", k, s, -1, i, v) for k, s, v in [("full", -1, 1.0), ("skip", 2, 0.6)] for i in range(9)]
    >>> scores = pd.DataFrame(rows, columns=["task", "kind", "start", "seed", "sample", "score"])
    >>> float(painters_curves(scores, {"t": 0.2})["normalised"].squeeze().round(3))
    0.5
    """
    tasks = sorted(set(scores["task"]))
    without = [task for task in tasks if task not in chance]
    if without:
        raise ValueError(f"no chance is given for {', '.join(without)}: chance={dict(chance)}.")
    plans = scores[scores["kind"] != FULL_MODEL]
    _refuse_several_times(plans)
    kinds = list(dict.fromkeys(plans["kind"]))
    starts = sorted(int(start) for start in set(plans["start"]))
    columns = [(kind, start) for kind in kinds for start in starts]
    rng = np.random.default_rng(seed)
    mean = np.full((len(tasks), len(columns)), np.nan)
    share = np.full((len(tasks), n_boot, len(columns)), np.nan)
    full, counts, blind = np.zeros(len(tasks)), np.zeros(len(tasks), dtype=int), []
    for row, task in enumerate(tasks):
        whole, table = _by_sample(scores[scores["task"] == task], task, columns)
        low = paired_bootstrap(whole - chance[task], seed=seed, n=n_boot)[0]
        full[row], counts[row], mean[row] = whole.mean(), len(whole), table.mean(axis=1)
        if not low > 0 and not (np.ptp(whole) == 0 and whole[0] > chance[task]):
            blind.append(task)
            continue
        drawn = resampled(rng, n_boot, len(whole))
        above = whole[drawn].mean(axis=1) - chance[task]
        # A few draws of a task that is surely above chance are not: nothing can be a share of those.
        share[row] = ((table[:, drawn].mean(axis=2) - chance[task]) / np.where(above > 0, above, np.nan)).T
    above_chance = full - np.array([chance[task] for task in tasks])
    above_chance[[task in blind for task in tasks]] = np.nan
    normalised = (mean - np.array([[chance[task]] for task in tasks])) / above_chance[:, None]
    found = _labelled(tasks, kinds, starts, mean, normalised, share, full, counts, blind)
    settings = json.dumps({"n_boot": n_boot, "seed": seed, "chance": dict(chance)}, sort_keys=True)
    return found.assign_attrs({**scores.attrs, "measure": "painters_curves", "settings": settings})


def _refuse_several_times(plans: pd.DataFrame) -> None:
    """Curves have no axis for it, and a mean of them is nobody's."""
    if "times" not in plans:
        return
    for kind, times in plans.groupby("kind")["times"].unique().items():
        if len(times) > 1:
            raise ValueError(
                f"{kind} was run with times {sorted(map(int, times))}: make a curve of each, by scores['times']."
            )


def _by_sample(
    rows: pd.DataFrame, task: str, columns: list[tuple[str, int]]
) -> tuple[Float[np.ndarray, " sample"], Float[np.ndarray, "plan sample"]]:
    """The full model's score of each sample, and each plan's, mean over seeds; NaN for a plan that was not run."""
    of_full = rows[rows["kind"] == FULL_MODEL]
    if of_full.empty:
        raise ValueError(
            f"{task} has no rows of the full model (kind {FULL_MODEL!r}), which every score is measured by."
        )
    # Tables of several calls laid end to end have the full model in each.
    whole = of_full.groupby("sample")["score"].first()
    if (of_full.groupby("sample")["score"].nunique() > 1).any():
        raise ValueError(f"{task} has several scores of the full model for one sample: they are of different runs.")
    table = np.full((len(columns), len(whole)), np.nan)
    for place, (kind, start) in enumerate(columns):
        of_plan = rows[(rows["kind"] == kind) & (rows["start"] == start)]
        if of_plan.empty:
            continue
        means = of_plan.groupby("sample")["score"].mean()
        if not means.index.equals(whole.index):
            raise ValueError(f"{task}: {kind} at start {start} was scored on other samples than the full model.")
        table[place] = means.to_numpy()
    return whole.to_numpy(dtype=float), table


def _quantiles(drawn: Float[np.ndarray, "draw plan"], at: list[float]) -> Float[np.ndarray, "quantile plan"]:
    """Percentiles of each plan's draws that are numbers; NaN where none is."""
    found = np.full((len(at), drawn.shape[1]), np.nan)
    for plan, values in enumerate(drawn.T):
        known = values[np.isfinite(values)]
        if len(known):
            found[:, plan] = np.percentile(known, at)
    return found


def _labelled(
    tasks: list[str],
    kinds: list[str],
    starts: list[int],
    mean: Float[np.ndarray, "task plan"],
    normalised: Float[np.ndarray, "task plan"],
    share: Float[np.ndarray, "task draw plan"],
    full: Float[np.ndarray, " task"],
    counts: np.ndarray,
    blind: list[str],
) -> xr.Dataset:
    shape = (len(kinds), len(starts))
    testable = [task not in blind for task in tasks]
    nothing = np.full(mean.shape[1], np.nan)
    centre, low, high = nothing, nothing, nothing
    if any(testable):
        centre = np.median(normalised[testable], axis=0)
        low, high = _quantiles(np.median(share[testable], axis=0), [2.5, 97.5])
    found = xr.Dataset(
        {
            "score": (("task", *_KEY), mean.reshape(len(tasks), *shape)),
            "normalised": (("task", *_KEY), normalised.reshape(len(tasks), *shape)),
            "full": ("task", full),
            "n": ("task", counts),
            "median": (_KEY, centre.reshape(shape)),
            "median_low": (_KEY, low.reshape(shape)),
            "median_high": (_KEY, high.reshape(shape)),
        },
        coords={"task": tasks, "kind": kinds, "start": starts},
    )
    found["normalised"].attrs = {"long_name": "score, chance = 0 and full model = 1", "units": "1"}
    found["median"].attrs = {"long_name": "median over tasks of the normalised score", "units": "1"}
    found.attrs["not_testable"] = ", ".join(blind)
    return found


PAINTERS_CURVES = Measure(
    painters_curves,
    "layers as painters",
    "score with the middle layers skipped, repeated, reordered",
    plot="plot_painters_curves",
    needs="results",
    group="painters",
    command="painters",
)
