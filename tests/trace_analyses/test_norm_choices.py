"""How often the right candidate comes first by a norm signal: by hand, and what is refused."""

import numpy as np
import pytest
import xarray as xr

from lacscope.trace_analyses._norm_choices import share_right
from lacscope.trace_analyses._tell_tale import SIGNALS

pytestmark = pytest.mark.once


def signals(norm_sum: list[float], n_decode: list[int]) -> xr.Dataset:
    """Candidates whose first signal at the one late layer is given; the other signals are all equal."""
    by_layer = np.zeros((len(norm_sum), 4))
    by_layer[:, 2] = 1.0
    found = dict.fromkeys(SIGNALS, (("sample", "layer"), by_layer))
    found["norm_sum"] = (("sample", "layer"), by_layer * np.array(norm_sum)[:, None])
    ds = xr.Dataset(found, {"sample": np.arange(len(norm_sum)), "layer": np.arange(4)}, {"model": "m"})
    return ds.assign(n_decode=("sample", n_decode))


RIGHT = [True, False, False, False, True, True, False]
QUESTIONS = ["a", "a", "a", "b", "b", "c", "c"]


def test_shares_by_hand() -> None:
    found = share_right(
        signals([3, 2, 1, 5, 4, 7, 7], [1, 1, 2, 1, 3, 4, 2]), RIGHT, QUESTIONS, seed=0, n_bootstrap=200
    )
    share = dict(zip(found["signal"].values.tolist(), found["share"].values.tolist(), strict=True))
    assert share["norm_sum"] == pytest.approx((1 + 0 + 1 / 2) / 3)  # in c two are first together
    assert share["length"] == pytest.approx((0 + 1 + 1) / 3)
    assert share["excess"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)  # all equal: chance
    assert found["chance"].item() == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    assert found.attrs["n_questions"] == 3
    assert (found["low"] <= found["share"]).all()
    assert (found["share"] <= found["high"]).all()
    assert found["low"].sel(signal="norm_sum").item() < found["high"].sel(signal="norm_sum").item()


def test_the_order_of_candidates_changes_nothing() -> None:
    order = np.random.default_rng(0).permutation(7)
    made = signals([3, 2, 1, 5, 4, 7, 6], [1, 1, 2, 1, 3, 4, 2])
    one = share_right(made, RIGHT, QUESTIONS, seed=0, n_bootstrap=10)
    shuffled = [[values[i] for i in order] for values in (RIGHT, QUESTIONS)]
    other = share_right(made.isel(sample=order), *shuffled, seed=0, n_bootstrap=10)
    np.testing.assert_allclose(one["share"], other["share"])


def test_what_is_refused() -> None:
    made = signals([1, 2], [1, 1])
    with pytest.raises(ValueError, match="right and questions must have 2 values, one a sample; got 1 and 2"):
        share_right(made, [True], ["a", "a"], seed=0)
    with pytest.raises(ValueError, match="question 'a' has 2 right of 2 candidates: give one right and at least one"):
        share_right(made, [True, True], ["a", "a"], seed=0)
    with pytest.raises(ValueError, match="question 'b' has 0 right of 1 candidates"):
        share_right(made, [False, True], ["b", "a"], seed=0)
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        share_right(made, [True, False], ["a", "a"], seed=-1)
