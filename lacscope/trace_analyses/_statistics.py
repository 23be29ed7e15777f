"""Intervals and tests for scores of the same samples under several conditions. Pure functions on arrays.

Nothing here is random by itself: what resamples takes the seed.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from lacscope.guards._arguments import ANY, listed, whole_number
from lacscope.trace_analyses._bootstrap import check_level, in_pieces, percentiles, resampled

Interval = tuple[float, float]
_UNKNOWN: Interval = (math.nan, math.nan)


class McNemar(NamedTuple):
    """Exact McNemar test: its two-sided p, and the samples that only one side has right."""

    p: float
    only_a: int
    only_b: int


def wilson_interval(k: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share ``k / n``; (0, 1) where ``n`` is 0.

    Source: Wilson 1927; recommended over the normal interval by Brown, Cai and DasGupta 2001.

    Raises:
        ValueError: ``k`` is not between 0 and ``n``.

    >>> tuple(round(end, 4) for end in wilson_interval(81, 263))  # Newcombe 1998, table I
    (0.2553, 0.3662)
    """
    whole_number("n", n)
    check_level("confidence", confidence)
    if whole_number("k", k, least=ANY) not in range(n + 1):
        raise ValueError(f"k must lie between 0 and n, got k={k} and n={n}.")
    if n == 0:
        return 0.0, 1.0
    ends = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    # The ends are 0 and 1 exactly there; rounding would leave 1e-18.
    return (0.0 if k == 0 else float(ends.low)), (1.0 if k == n else float(ends.high))


def mcnemar_exact(a_right: Bool[np.ndarray, " sample"], b_right: Bool[np.ndarray, " sample"]) -> McNemar:
    """Do two conditions get the same number of the same samples right? Two-sided, binomial over discordant pairs.

    Source: McNemar 1947, in its exact form. p is 1 where no sample is discordant.

    >>> mcnemar_exact(np.array([True] * 6 + [False]), np.array([False] * 7))
    McNemar(p=0.03125, only_a=6, only_b=0)
    """
    a_right, b_right = _booleans("a_right", a_right), _booleans("b_right", b_right)
    if a_right.shape != b_right.shape:
        raise ValueError(f"a_right has {a_right.size} samples and b_right {b_right.size}: give the same ones.")
    only_a, only_b = int((a_right & ~b_right).sum()), int((b_right & ~a_right).sum())
    if only_a + only_b == 0:
        return McNemar(1.0, 0, 0)
    return McNemar(float(stats.binomtest(only_a, only_a + only_b).pvalue), only_a, only_b)


def holm(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p-values adjusted for their number by Holm's step-down method. A NaN is no test: it stays, and is not counted.

    Source: Holm 1979.

    >>> [round(float(p), 6) for p in holm(np.array([0.01, 0.04, 0.03, 0.005]))]
    [0.03, 0.06, 0.06, 0.02]
    """
    p_values = _numbers("p_values", p_values)
    adjusted = np.full(p_values.shape, math.nan)
    tests = np.flatnonzero(~np.isnan(p_values))
    order = tests[np.argsort(p_values[tests], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return adjusted


def paired_bootstrap(
    differences: Float[np.ndarray, "*seed sample"],
    *,
    groups: Sequence[str] | None = None,
    seed: int,
    n: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of the mean over samples, of differences of pairs or of any other value.

    Samples are drawn within their group, and one fewer than there are: with three samples a subject, as many draws
    as samples would make the interval a fifth too narrow. Groups of one sample are taken together. With a leading
    axis of seeds, seeds are drawn too, independently of the samples.

    Sources: Rao and Wu 1988 (n - 1 draws in each stratum); Owen 2007 (two crossed factors, each resampled).

    Args:
        differences: one value a sample, or [seed, sample]; no NaN.
        groups: each sample's group, such as its MMLU subject.
        seed: the seed of the resampling.
        n: number of resamplings.
        confidence: the level of the interval.

    Returns:
        (low, high); NaN with fewer than two samples.

    Raises:
        ValueError: a value is NaN, or ``groups`` has another length.

    >>> paired_bootstrap(np.array([0.0, 0.0, 0.0]), seed=0)
    (0.0, 0.0)
    """
    _check_draws(seed, n, confidence)
    values = np.atleast_2d(_numbers("differences", differences))
    n_seeds, n_samples = values.shape
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {values.size} values are NaN: drop those samples first.")
    if groups is not None and len(groups := listed("groups", groups, "names")) != n_samples:
        raise ValueError(f"groups has {len(groups)} names for {n_samples} samples.")
    if n_samples < 2 or n_seeds == 0:
        return _UNKNOWN
    rng = np.random.default_rng(seed)
    seeds = resampled(rng, n, n_seeds)
    means = np.zeros(n)
    for members in _strata(groups, n_samples):
        for part in in_pieces(n, n_seeds * len(members)):
            drawn = members[resampled(rng, part.stop - part.start, len(members))]
            mean = values[seeds[part][:, :, None], drawn[:, None, :]].mean((1, 2))
            means[part] += mean * len(members) / n_samples
    return _ends(means, confidence)


def bootstrap_median(
    values: Float[np.ndarray, "*seed sample"], *, seed: int, n: int = 2000, confidence: float = 0.95
) -> Interval:
    """Percentile interval of the median over all values; samples are drawn, and seeds where there is such an axis."""
    _check_draws(seed, n, confidence)
    values = np.atleast_2d(_numbers("values", values))
    n_seeds, n_samples = values.shape
    if n_samples < 2 or n_seeds == 0:
        return _UNKNOWN
    rng = np.random.default_rng(seed)
    medians = np.empty(n)
    for part in in_pieces(n, values.size):
        seeds = resampled(rng, part.stop - part.start, n_seeds)
        drawn = resampled(rng, part.stop - part.start, n_samples)
        medians[part] = np.median(values[seeds[:, :, None], drawn[:, None, :]], axis=(1, 2))
    return _ends(medians, confidence)


def bootstrap_ratio(
    numerators: Float[np.ndarray, " sample"],
    denominators: Float[np.ndarray, " sample"],
    *,
    seed: int,
    n: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of ``sum(numerators) / sum(denominators)``, such as usage: samples are drawn, not tokens.

    Tokens of one text resemble each other; drawn one by one they would make usage look far surer than it is.
    Samples whose denominator is 0 say nothing and are left out; NaN with fewer than two others.

    >>> bootstrap_ratio(np.array([5.0, 10.0]), np.array([10.0, 20.0]), seed=0)
    (0.5, 0.5)
    """
    _check_draws(seed, n, confidence)
    numerators, denominators = _numbers("numerators", numerators), _numbers("denominators", denominators)
    if numerators.shape != denominators.shape:
        raise ValueError(f"numerators has {numerators.size} samples and denominators {denominators.size}.")
    counted = denominators > 0
    above, below = numerators[counted], denominators[counted]
    if len(below) < 2:
        return _UNKNOWN
    rng = np.random.default_rng(seed)
    ratios = np.empty(n)
    for part in in_pieces(n, len(below)):
        drawn = resampled(rng, part.stop - part.start, len(below))
        ratios[part] = above[drawn].sum(1) / below[drawn].sum(1)
    return _ends(ratios, confidence)


def smallest_detectable_difference(
    n: int, discordant_share: float, *, power: float = 0.8, level: float = 0.05
) -> float:
    """The difference of two paired shares that McNemar's test at ``level`` finds with probability ``power``.

    Connor 1987 (Biometrics 43:207) gives the samples that a difference d needs where a share w of the pairs is
    discordant: ``n = (z_level * sqrt(w) + z_power * sqrt(w - d^2))^2 / d^2``, with the two-sided z of ``level``;
    here it is solved for d. A difference cannot exceed w: where the solution does, w = d is put in. The exact test
    needs a little more. NaN where ``n`` is too small for any difference.

    Raises:
        ValueError: ``discordant_share`` is not between 0 and 1.

    >>> round(smallest_detectable_difference(200, 0.2), 3)
    0.088
    """
    if not 0 <= discordant_share <= 1:
        raise ValueError(f"discordant_share must lie between 0 and 1, got {discordant_share}.")
    z_level, z_power = float(stats.norm.ppf(1 - level / 2)), float(stats.norm.ppf(power))
    inside = n + z_power**2 - z_level**2
    if n < 1 or inside < 0:
        return math.nan
    factor = (z_level * math.sqrt(n) + z_power * math.sqrt(inside)) / (n + z_power**2)
    # factor * sqrt(w) solves the formula; with w = d that is d = factor^2.
    difference = max(factor * math.sqrt(discordant_share), factor**2)
    return difference if difference <= 1 else math.nan


def majority_share(targets: Int[np.ndarray, " sample"]) -> tuple[int, float]:
    """The best constant answer and the share of samples that it gets right; the lower answer where two are level.

    Samples without a right choice (-1) are left out; (-1, NaN) where none is left.

    >>> majority_share(np.array([1, 0, 1, 1]))
    (1, 0.75)
    """
    known = targets[targets >= 0]
    if len(known) == 0:
        return -1, math.nan
    counts = np.bincount(known)
    return int(counts.argmax()), float(counts.max() / len(known))


def _check_draws(seed: int, n: int, confidence: float) -> None:
    whole_number("seed", seed)
    whole_number("n", n, least=1)
    check_level("confidence", confidence)


def _numbers(name: str, values: Any) -> Float[np.ndarray, "*dims"]:
    found = np.asarray(values)
    if found.dtype.kind not in "fiub" or found.ndim == 0:
        raise ValueError(f"{name} must be an array of numbers, got {values!r:.80}.")
    return found


def _booleans(name: str, values: Any) -> Bool[np.ndarray, " sample"]:
    found = np.asarray(values)
    if found.dtype != bool or found.ndim != 1:
        raise ValueError(f"{name} must be one bool a sample, got {values!r:.80}.")
    return found


def _strata(groups: Sequence[str] | None, n_samples: int) -> list[np.ndarray]:
    """Indices of each group's samples, two at least: one sample alone has no spread to draw from."""
    if groups is None:
        return [np.arange(n_samples)]
    names = np.asarray(groups)
    strata = sorted((np.flatnonzero(names == name) for name in np.unique(names)), key=len)
    alone = [members for members in strata if len(members) == 1]
    rest = strata[len(alone) :]
    if alone and (len(alone) > 1 or not rest):
        rest.append(np.concatenate(alone))
    elif alone:
        rest[0] = np.concatenate([alone[0], rest[0]])
    return rest


def _ends(replicates: Float[np.ndarray, " n"], confidence: float) -> Interval:
    low, high = percentiles(replicates, confidence)
    return float(low), float(high)
