"""What is left of LAC's usage and score over one mask for every token."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacscope.reproduction.scores._comparisons import compare
from lacscope.reproduction.scores._norm_null import null_share, profile_left_over
from lacscope.testing import synthetic_scores

pytestmark = pytest.mark.once


def test_a_profile_with_the_nulls_shape_leaves_nothing() -> None:
    null = np.array([1.0, 1.0, 0.0, 0.0, 1.0])
    assert profile_left_over(0.2 + 0.7 * null, null) == (1.0, 0.0)
    assert profile_left_over(1.0 - null, null) == (-1.0, 0.0)


def test_an_unrelated_profile_is_left_whole() -> None:
    assert profile_left_over(np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0])) == (0.0, 1.0)


def test_flat_profiles() -> None:
    correlation, left = profile_left_over(np.array([0.3, 0.9]), np.ones(2))
    assert math.isnan(correlation)
    assert left == 1.0
    assert np.isnan(profile_left_over(np.full(3, 0.1), np.array([1.0, 0.0, 0.0]))).all()


@given(st.integers(0, 1000))
def test_what_is_left_is_the_residual_of_the_best_line(seed: int) -> None:
    rng = np.random.default_rng(seed)
    usage, null = rng.random(12), np.append(rng.integers(0, 2, 10), [0, 1]).astype(float)
    slope, start = np.polyfit(null, usage, 1)
    residual = ((usage - start - slope * null) ** 2).sum() / ((usage - usage.mean()) ** 2).sum()
    correlation, left = profile_left_over(usage, null)
    assert left == pytest.approx(residual, abs=1e-9)
    assert correlation == pytest.approx(np.corrcoef(usage, null)[0, 1], abs=1e-9)


def test_the_nulls_profile_and_score_stand_beside_lacs() -> None:
    scores = synthetic_scores(20, 4)
    rows = scores[(scores["rule"] == "norm_null") & (scores["effect"] == "bypass")]
    mask = [1, 0, 0, 1]
    scores.loc[rows.index, "active_prefill"] = pd.Series(
        [[n * on for on in mask] for n in rows["n_prefill"]], rows.index
    )
    compared = compare(scores, draws=50)
    found = null_share(scores, compared)
    assert list(zip(found["effect"], found["alpha"], found["phase"], strict=True)) == [
        ("readout", 0.8, "prefill"),
        ("readout", 0.8, "decode"),
        ("bypass", 0.1, "prefill"),
        ("bypass", 0.1, "decode"),
    ]
    lac = scores[(scores["rule"] == "lac") & (scores["effect"] == "bypass") & (scores["alpha"] == 0.1)]
    lac = lac[lac["sample"].isin(rows["sample"])]
    usage = np.sum(lac["active_prefill"].to_list(), axis=0) / lac["n_prefill"].sum()
    row = found.iloc[2]
    assert (row["correlation"], row["left_over"]) == pytest.approx(profile_left_over(usage, np.array(mask, float)))
    assert math.isnan(found.iloc[3]["left_over"])
    row_of = compared[(compared["against"] == "norm_null") & (compared["effect"] == "bypass")].iloc[0]
    for name in ("difference", "difference_low", "difference_high", "kl_difference", "p_adjusted"):
        assert row[name] == row_of[name]


def test_without_the_null_nothing_is_said_of_it() -> None:
    scores = synthetic_scores(10, 4)
    scores = scores[scores["rule"] != "norm_null"]
    assert null_share(scores, compare(scores, draws=20)).empty
