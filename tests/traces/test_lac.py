"""The rule's arithmetic against plain loops, and the laws it must obey."""

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import lac_margins, lac_voids

from lacscope.traces._lac import check_alpha, lac_thresholds

pytestmark = pytest.mark.once

LAYERS, TOKENS = st.integers(1, 9), st.integers(1, 4)
ALPHAS = st.floats(0, 4, width=32)
# Whole numbers of 1/64 make sums and differences exact in float32 too: what is left is the rule itself.
EXACT = st.integers(-(2**12), 2**12).map(lambda k: k / 64)


@st.composite
def exact_deltas(draw: st.DrawFn) -> np.ndarray:
    shape = (draw(LAYERS), draw(TOKENS))
    return draw(hnp.arrays(np.float32, shape, elements=EXACT.map(np.float32)))


@st.composite
def float_deltas(draw: st.DrawFn) -> np.ndarray:
    shape = (draw(LAYERS), draw(TOKENS))
    return draw(hnp.arrays(np.float32, shape, elements=st.floats(-500, 500, width=32, allow_subnormal=False)))


def voids(delta: np.ndarray, alpha: float) -> np.ndarray:
    return delta < lac_thresholds(delta, alpha)


@given(exact_deltas(), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 2.0]))
def test_equals_the_plain_loops_exactly(delta: np.ndarray, alpha: float) -> None:
    assert voids(delta, alpha).tolist() == lac_voids(delta.tolist(), alpha)


@given(float_deltas(), ALPHAS)
def test_equals_the_plain_loops_up_to_rounding(delta: np.ndarray, alpha: float) -> None:
    margins = np.array(lac_margins(delta.tolist(), alpha))
    rounding = 4 * np.finfo(np.float32).eps * (1 + alpha) * np.abs(delta).max()
    clear = np.abs(margins) > rounding
    np.testing.assert_array_equal(voids(delta, alpha)[clear], margins[clear] < 0)


@given(float_deltas())
def test_alpha_zero_makes_exactly_the_falling_layers_voids(delta: np.ndarray) -> None:
    np.testing.assert_array_equal(voids(delta, 0.0), delta < 0)


@given(float_deltas(), ALPHAS, ALPHAS)
def test_voids_only_grow_with_alpha(delta: np.ndarray, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert not (voids(delta, low) & ~voids(delta, high)).any()


@given(float_deltas(), ALPHAS)
def test_layers_0_and_1_do_not_depend_on_alpha(delta: np.ndarray, alpha: float) -> None:
    np.testing.assert_array_equal(voids(delta, alpha)[:2], delta[:2] < 0)


@given(float_deltas(), ALPHAS, st.integers(-20, 20))
def test_scaling_by_a_power_of_two_changes_nothing(delta: np.ndarray, alpha: float, exponent: int) -> None:
    # A quotient near float32's smallest number would lose bits: that is underflow, not scaling.
    assume(not ((np.abs(delta) < 1e-20) & (delta != 0)).any())
    assume(alpha == 0 or alpha > 1e-6)
    np.testing.assert_array_equal(voids(delta * np.float32(2.0**exponent), alpha), voids(delta, alpha))


@given(float_deltas(), ALPHAS, st.floats(1e-3, 1e3))
def test_scaling_by_anything_changes_near_ties_at_most(delta: np.ndarray, alpha: float, factor: float) -> None:
    scaled = (delta.astype(np.float64) * factor).astype(np.float32)
    clear = np.abs(lac_margins(delta.tolist(), alpha)) > 1e-5 * (1 + alpha) * np.abs(delta).max()
    np.testing.assert_array_equal(voids(scaled, alpha)[clear], voids(delta, alpha)[clear])


@given(float_deltas(), ALPHAS)
def test_tokens_do_not_see_each_other(delta: np.ndarray, alpha: float) -> None:
    alone = np.concatenate([voids(delta[:, [token]], alpha) for token in range(delta.shape[1])], axis=1)
    np.testing.assert_array_equal(alone, voids(delta, alpha))


@given(float_deltas(), ALPHAS)
def test_later_layers_change_no_earlier_threshold(delta: np.ndarray, alpha: float) -> None:
    whole = lac_thresholds(delta, alpha)
    for layers in range(1, len(delta)):
        np.testing.assert_array_equal(lac_thresholds(delta[:layers], alpha), whole[:layers])


def test_a_tie_is_active() -> None:
    delta = np.array([[4.0], [2.0], [2.0], [1.0]], dtype=np.float32)
    # Layer 2's threshold is 4 - 2 = 2, which its delta equals; layer 3's is 2, and 1 is below.
    assert voids(delta, 1.0)[:, 0].tolist() == [False, False, False, True]
    assert voids(np.zeros((3, 1), dtype=np.float32), 1.0).any() == np.False_


def test_thresholds_by_hand() -> None:
    delta = np.array([[3.0], [5.0], [-1.0], [0.0]], dtype=np.float32)
    np.testing.assert_allclose(lac_thresholds(delta, 0.5)[:, 0], [0, 0, 1, 3])


def test_leading_dimensions_and_dtype_stay() -> None:
    delta = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    found = lac_thresholds(delta, 0.8)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[1, 2], lac_thresholds(delta[1, 2], 0.8))


def test_nan_tokens_stay_apart() -> None:
    delta = np.ones((4, 2), dtype=np.float32)
    delta[:, 1] = np.nan
    found = voids(delta, 1.0)
    assert not found[:, 1].any()
    np.testing.assert_array_equal(found[:, 0], voids(delta[:, :1], 1.0)[:, 0])


@pytest.mark.parametrize("alpha", [0, 0.8, 1, np.float32(0.5), np.float64(0.5), np.int64(2)])
def test_alpha_may_be_any_number(alpha: object) -> None:
    assert check_alpha(alpha) == float(alpha)
    assert type(check_alpha(alpha)) is float


@pytest.mark.parametrize("alpha", [-0.1, math.nan, math.inf, -math.inf, np.float32("nan"), 1e39])
def test_alpha_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha must be a finite number >= 0, got .*The paper uses 0\.8"):
        check_alpha(alpha)


@pytest.mark.parametrize("alpha", [True, "0.8", None, [0.8], 1j])
def test_alpha_that_is_no_number(alpha: object) -> None:
    with pytest.raises(ValueError, match=r"alpha must be a number >= 0, got .*The paper uses 0\.8"):
        check_alpha(alpha)
