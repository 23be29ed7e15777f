"""Many ratios at once against one at a time."""

import numpy as np
import pytest

from lacscope.trace_analyses._bootstrap import bootstrap_ratios, check_bootstrap
from lacscope.trace_analyses._statistics import bootstrap_ratio

pytestmark = pytest.mark.once


@pytest.mark.parametrize("n_samples", [2, 7, 3000])
def test_each_column_is_the_single_ratios_interval(n_samples: int) -> None:
    rng = np.random.default_rng(1)
    below = rng.integers(0, 9, n_samples).astype(float)
    below[:2] = 4.0
    above = rng.random((n_samples, 3)) * below[:, None]
    n = 1000 if n_samples == 3000 else 200  # the largest is drawn in several pieces
    found = bootstrap_ratios(above, below, seed=5, n=n, confidence=0.9)
    for column in range(3):
        expected = bootstrap_ratio(above[:, column], below, seed=5, n=n, confidence=0.9)
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-12)


def test_fewer_than_two_samples_have_no_interval() -> None:
    found = bootstrap_ratios(np.ones((3, 2)), np.array([2.0, 0.0, 0.0]), seed=0, n=10, confidence=0.95)
    assert np.isnan(found).all()
    assert found.shape == (2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, r"^seed must be 0 or more, got -1\.$"),
        ({"n_bootstrap": 0}, r"^n_bootstrap must be at least 1, got 0\.$"),
        ({"level": 1.0}, r"^level must be between 0 and 1, got 1\.0: 0\.95 gives a 95 % interval\.$"),
    ],
)
def test_what_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_bootstrap(**{"seed": 0, "n_bootstrap": 10, "level": 0.95} | options)
