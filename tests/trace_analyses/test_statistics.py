"""Intervals and tests against published values, scipy, brute force and the laws that they must keep."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lacscope.trace_analyses._statistics import (
    bootstrap_median,
    bootstrap_ratio,
    holm,
    majority_share,
    mcnemar_exact,
    paired_bootstrap,
    smallest_detectable_difference,
    wilson_interval,
)

pytestmark = pytest.mark.once

# --- Wilson ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_values(k: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(k, n) == pytest.approx((low, high), abs=5e-5)


@given(n=st.integers(1, 400), data=st.data(), confidence=st.floats(0.5, 0.999))
def test_wilson_is_scipys_and_symmetric(n: int, data: st.DataObject, confidence: float) -> None:
    k = data.draw(st.integers(0, n))
    low, high = wilson_interval(k, n, confidence)
    theirs = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    mirrored = wilson_interval(n - k, n, confidence)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)
    assert 0 <= low <= k / n <= high <= 1


def test_wilson_of_nothing_is_everything() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_refuses_an_impossible_count() -> None:
    with pytest.raises(ValueError, match="k must lie between 0 and n, got k=5 and n=4"):
        wilson_interval(5, 4)


def test_wilson_covers() -> None:
    ends = np.array([wilson_interval(k, 60) for k in range(61)])
    shares = np.linspace(0.05, 0.95, 181)
    # At one share the coverage jumps about, as it must with whole counts; over shares its mean is the promise.
    covers = [stats.binom.pmf(np.arange(61), 60, p)[(ends[:, 0] <= p) & (ends[:, 1] >= p)].sum() for p in shares]
    assert np.mean(covers) == pytest.approx(0.95, abs=0.005)


# --- McNemar --------------------------------------------------------------------------------------------


def brute_mcnemar(only_a: int, only_b: int) -> float:
    """Every way that the discordant pairs could have fallen, at least as lopsided as they did."""
    n = only_a + only_b
    falls = [sum(way) for way in product((0, 1), repeat=n)]
    return sum(abs(2 * fall - n) >= abs(only_a - only_b) for fall in falls) / len(falls)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (3, 1), (6, 0), (2, 7), (5, 5)])
def test_mcnemar_counts_every_way_the_pairs_could_fall(only_a: int, only_b: int) -> None:
    a = np.array([True] * only_a + [False] * only_b + [True, False, False])
    b = np.array([False] * only_a + [True] * only_b + [True, False, False])
    found = mcnemar_exact(a, b)
    assert found == (pytest.approx(brute_mcnemar(only_a, only_b)), only_a, only_b)
    assert mcnemar_exact(b, a) == (pytest.approx(found.p), only_b, only_a)


def test_mcnemar_of_the_same_answers_is_one() -> None:
    right = np.array([True, False, True])
    assert mcnemar_exact(right, right) == (1.0, 0, 0)
    assert mcnemar_exact(np.zeros(0, bool), np.zeros(0, bool)) == (1.0, 0, 0)


# --- Holm -----------------------------------------------------------------------------------------------


def slow_holm(p_values: list[float]) -> list[float]:
    """The definition: the greatest of (m - rank) * p over the p-values that are not larger."""
    m, ordered = len(p_values), sorted(p_values)
    return [min(1.0, max((m - rank) * p for rank, p in enumerate(ordered) if p <= own)) for own in p_values]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_its_definition(p_values: list[float]) -> None:
    adjusted = holm(np.array(p_values))
    # Equal p-values: a stable order gives the later one the smaller factor, the running maximum evens it out.
    np.testing.assert_allclose(adjusted, slow_holm(p_values), atol=1e-12)
    assert (adjusted >= np.array(p_values) - 1e-15).all()


def test_holm_leaves_what_is_no_test_out_of_the_count() -> None:
    adjusted = holm(np.array([0.01, math.nan, 0.04, math.nan]))
    np.testing.assert_allclose(adjusted, [0.02, math.nan, 0.04, math.nan])
    assert holm(np.zeros(0)).shape == (0,)


# --- bootstraps -----------------------------------------------------------------------------------------


def test_the_bootstrap_agrees_with_scipys() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, 300)
    ours = paired_bootstrap(values, seed=0, n=8000)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=8000, rng=1).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_the_bootstrap_is_a_function_of_its_seed_alone() -> None:
    values = np.random.default_rng(1).normal(size=50)
    assert paired_bootstrap(values, seed=3) == paired_bootstrap(values, seed=3)
    assert paired_bootstrap(values, seed=3) != paired_bootstrap(values, seed=4)


def test_swapping_the_sides_mirrors_the_interval() -> None:
    values = np.random.default_rng(1).normal(size=50)
    low, high = paired_bootstrap(values, seed=0)
    assert paired_bootstrap(-values, seed=0) == pytest.approx((-high, -low))


def test_large_inputs_are_cut_into_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=(2, 40))
    whole = paired_bootstrap(values, seed=0, n=4000)
    monkeypatch.setattr("lacscope.trace_analyses._bootstrap._AT_ONCE", 100)
    assert paired_bootstrap(values, seed=0, n=4000) == pytest.approx(whole, abs=0.03)
    assert bootstrap_median(values, seed=0, n=50)[0] < bootstrap_median(values, seed=0, n=50)[1]
    assert bootstrap_ratio(np.ones(40), np.full(40, 2.0), seed=0) == (0.5, 0.5)


@pytest.mark.parametrize("sizes", [(2,) * 40, (3,) * 20 + (1,) * 7, (1,) * 40, (30, 2), (5, 5, 1)])
def test_small_groups_do_not_make_the_interval_too_narrow(sizes: tuple[int, ...]) -> None:
    """The spread of the resampled means is that of sampling theory: sum of (n_h / N)^2 s_h^2 / n_h."""
    rng = np.random.default_rng(0)
    groups = [f"g{group}" for group, size in enumerate(sizes) for _ in range(size)]
    values = np.concatenate([rng.normal(group % 3, 1.0, size) for group, size in enumerate(sizes)])
    low, high = paired_bootstrap(values, groups=groups, seed=0, n=8000)
    # Groups of one are one group; one such alone joins the smallest other one.
    alone = {f"g{group}" for group, size in enumerate(sizes) if size == 1}
    smallest = min((g for g, size in enumerate(sizes) if size > 1), key=lambda g: sizes[g], default=None)
    home = "alone" if len(alone) > 1 or smallest is None else f"g{smallest}"
    merged = np.array([home if name in alone else name for name in groups])
    parts = [values[merged == name] for name in sorted(set(merged))]
    expected = math.sqrt(sum((len(part) / len(values)) ** 2 * part.var(ddof=1) / len(part) for part in parts))
    assert (high - low) / (2 * 1.96) == pytest.approx(expected, rel=0.06)


def test_the_paired_bootstrap_covers() -> None:
    rng = np.random.default_rng(0)
    groups = [f"g{index // 3}" for index in range(60)]
    hits = 0
    for repeat in range(300):
        subjects = np.repeat(rng.normal(0, 2.0, 20), 3)
        low, high = paired_bootstrap(
            0.5 + subjects - subjects.mean() + rng.normal(size=60), groups=groups, seed=repeat, n=300
        )
        hits += low <= 0.5 <= high
    assert hits / 300 == pytest.approx(0.95, abs=0.04)


def test_seeds_add_their_own_uncertainty() -> None:
    rng = np.random.default_rng(0)
    same = np.tile(rng.normal(size=100), (2, 1))
    apart = same + np.array([[-1.0], [1.0]])
    width = np.diff(paired_bootstrap(same, seed=0))
    assert width == pytest.approx(np.diff(paired_bootstrap(same[0], seed=0)), rel=0.1)
    # Two seeds 2 apart: each resampling has one of them, so the interval reaches both.
    low, high = paired_bootstrap(apart, seed=0)
    assert low < same.mean() - 0.9
    assert high > same.mean() + 0.9


def test_too_few_samples_give_no_interval() -> None:
    for values in (np.zeros(0), np.zeros(1), np.zeros((3, 1)), np.zeros((0, 5))):
        assert np.isnan(paired_bootstrap(values, seed=0)).all()
        assert np.isnan(bootstrap_median(values, seed=0)).all()
    assert np.isnan(bootstrap_ratio(np.ones(3), np.array([1.0, 0.0, 0.0]), seed=0)).all()


def test_the_bootstrap_says_what_it_cannot_take() -> None:
    with pytest.raises(ValueError, match="1 of 3 values are NaN: drop those samples first"):
        paired_bootstrap(np.array([0.0, math.nan, 1.0]), seed=0)
    with pytest.raises(ValueError, match="groups has 2 names for 3 samples"):
        paired_bootstrap(np.zeros(3), groups=["a", "b"], seed=0)


def test_the_medians_interval_is_that_of_order_statistics() -> None:
    values = np.random.default_rng(0).normal(size=101)
    low, high = bootstrap_median(values, seed=0)
    ranks = stats.binom.ppf([0.025, 0.975], 101, 0.5).astype(int)
    ordered = np.sort(values)
    assert ordered[ranks[0] - 3] <= low <= ordered[ranks[0] + 3]
    assert ordered[ranks[1] - 3] <= high <= ordered[ranks[1] + 3]


def test_usage_is_only_as_sure_as_its_samples() -> None:
    """Ten texts of 1000 tokens, each all active or all void: 10 facts, not 10,000."""
    active = np.array([1000.0, 0.0] * 5)
    low, high = bootstrap_ratio(active, np.full(10, 1000.0), seed=0)
    assert high - low > 0.4
    by_token = wilson_interval(5000, 10000)
    assert by_token[1] - by_token[0] < 0.02


def test_a_ratio_pools_and_leaves_empty_samples_out() -> None:
    low, high = bootstrap_ratio(np.array([1.0, 90.0, 0.0]), np.array([10.0, 100.0, 0.0]), seed=0)
    assert (low, high) == pytest.approx((0.1, 0.9))


# --- power ----------------------------------------------------------------------------------------------


@given(n=st.integers(30, 5000), share=st.floats(0.05, 1.0))
def test_the_detectable_difference_solves_connors_formula(n: int, share: float) -> None:
    found = smallest_detectable_difference(n, share)
    z_level, z_power = 1.959964, 0.841621
    if found > share:  # every discordant pair on one side
        share = found
    needed = (z_level * math.sqrt(share) + z_power * math.sqrt(share - found**2)) ** 2 / found**2
    assert needed == pytest.approx(n, rel=1e-4)
    assert smallest_detectable_difference(4 * n, share) < found


def test_the_detectable_difference_is_detected_as_often_as_promised() -> None:
    n, share = 400, 0.2
    difference = smallest_detectable_difference(n, share)
    only_a, only_b = (share + difference) / 2, (share - difference) / 2
    counts = np.random.default_rng(0).multinomial(n, [only_a, only_b, 1 - share], size=2000)
    tests = {(a, b): stats.binomtest(int(a), int(a + b)).pvalue < 0.05 for a, b in {tuple(c[:2]) for c in counts}}
    power = np.mean([tests[tuple(c[:2])] for c in counts])
    assert 0.72 < power < 0.83  # the exact test needs a little more


def test_no_discordant_pair_seen_is_not_every_difference_seen() -> None:
    assert 0.03 < smallest_detectable_difference(200, 0.0) < 0.05
    assert math.isnan(smallest_detectable_difference(0, 0.1))
    assert math.isnan(smallest_detectable_difference(3, 0.5))
    with pytest.raises(ValueError, match=r"discordant_share must lie between 0 and 1, got 1\.5"):
        smallest_detectable_difference(10, 1.5)


def test_the_best_constant_answer() -> None:
    assert majority_share(np.array([2, 2, 0, 1, -1])) == (2, 0.5)
    assert majority_share(np.array([1, 0])) == (0, 0.5)
    answer, share = majority_share(np.array([-1, -1]))
    assert answer == -1
    assert math.isnan(share)
