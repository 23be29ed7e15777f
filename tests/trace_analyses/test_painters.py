"""The painters' curves, against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from lacscope.trace_analyses._painters import painters_curves

pytestmark = pytest.mark.once

COLUMNS = ["task", "kind", "start", "seed", "sample", "score"]


def rows(task: str, kind: str, start: int, scores: list[float], seed: int = -1) -> list[tuple[object, ...]]:
    return [(task, kind, start, seed, sample, score) for sample, score in enumerate(scores)]


def table(*parts: list[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part], columns=COLUMNS)


GOOD = [1.0] * 9 + [0.0]  # 0.9


def test_chance_is_nought_and_the_full_model_one() -> None:
    scores = table(
        rows("a", "full", -1, GOOD), rows("a", "skip", 0, [0.0] * 8 + [1.0, 1.0]), rows("a", "skip", 3, GOOD),
        rows("b", "full", -1, GOOD), rows("b", "skip", 0, [0.0] * 10), rows("b", "skip", 3, [0.0] * 5 + [1.0] * 5),
    )  # fmt: skip
    found = painters_curves(scores, {"a": 0.2, "b": 0.0})
    assert found["normalised"].sel(task="a", kind="skip").values == pytest.approx([0.0, 1.0])
    assert found["normalised"].sel(task="b", kind="skip").values == pytest.approx([0.0, 5 / 9])
    assert found["median"].sel(kind="skip").values == pytest.approx([0.0, (1 + 5 / 9) / 2])
    assert found["n"].values.tolist() == [10, 10]
    assert bool((found["median_low"] <= found["median"]).all())
    assert bool((found["median"] <= found["median_high"]).all())


def test_random_plans_are_averaged_over_seeds() -> None:
    scores = table(
        rows("a", "full", -1, GOOD),
        rows("a", "random", 2, GOOD, seed=0),
        rows("a", "random", 2, [0.0] * 10, seed=1),
    )
    assert float(painters_curves(scores, {"a": 0.0})["score"].squeeze()) == pytest.approx(0.45)


def test_a_task_at_chance_is_left_out_and_named() -> None:
    coin = [1.0, 0.0] * 5
    scores = table(
        rows("a", "full", -1, GOOD), rows("a", "skip", 1, GOOD),
        rows("coin", "full", -1, coin), rows("coin", "skip", 1, GOOD),
    )  # fmt: skip
    found = painters_curves(scores, {"a": 0.0, "coin": 0.5})
    assert found.attrs["not_testable"] == "coin"
    assert np.isnan(found["normalised"].sel(task="coin")).all()
    assert float(found["median"].squeeze()) == pytest.approx(1.0)


def test_draws_at_chance_take_no_part_in_the_interval() -> None:
    # 9 of 16 right, chance 1/4: some draws of 16 have 4 right or fewer.
    full = [1.0] * 9 + [0.0] * 7
    found = painters_curves(table(rows("a", "full", -1, full), rows("a", "skip", 1, full)), {"a": 0.25}, n_boot=20_000)
    assert found["median"].item() == found["median_low"].item() == found["median_high"].item() == pytest.approx(1.0)


def test_several_times_of_one_kind_are_refused() -> None:
    scores = table(rows("a", "full", -1, GOOD), rows("a", "skip", 1, GOOD), rows("a", "looped_parallel", 1, GOOD))
    again = scores[scores["kind"] == "looped_parallel"].assign(times=2)
    with pytest.raises(ValueError, match=r"looped_parallel was run with times \[2, 3\]: make a curve of each"):
        painters_curves(pd.concat([scores.assign(times=3), again]), {"a": 0.0})


def test_the_full_model_scored_twice_counts_once_where_it_agrees() -> None:
    scores = table(rows("a", "full", -1, GOOD), rows("a", "full", -1, GOOD), rows("a", "skip", 1, GOOD))
    assert float(painters_curves(scores, {"a": 0.0})["full"][0]) == pytest.approx(0.9)
    other = table(rows("a", "full", -1, GOOD), rows("a", "full", -1, [0.0] * 10), rows("a", "skip", 1, GOOD))
    with pytest.raises(ValueError, match="a has several scores of the full model for one sample"):
        painters_curves(other, {"a": 0.0})


def test_a_plan_of_other_samples_or_no_full_model_is_refused() -> None:
    with pytest.raises(ValueError, match="skip at start 1 was scored on other samples"):
        painters_curves(table(rows("a", "full", -1, GOOD), rows("a", "skip", 1, GOOD[:5])), {"a": 0.0})
    with pytest.raises(ValueError, match="a has no rows of the full model"):
        painters_curves(table(rows("a", "skip", 1, GOOD)), {"a": 0.0})
    with pytest.raises(ValueError, match="no chance is given for a"):
        painters_curves(table(rows("a", "full", -1, GOOD)), {})


def test_a_plan_that_one_task_did_not_run_is_nan_there() -> None:
    scores = table(
        rows("a", "full", -1, GOOD), rows("a", "skip", 1, GOOD), rows("a", "skip", 2, GOOD),
        rows("b", "full", -1, GOOD), rows("b", "skip", 1, GOOD),
    )  # fmt: skip
    found = painters_curves(scores, {"a": 0.0, "b": 0.0})
    assert np.isnan(found["normalised"].sel(task="b", start=2)).all()
    for name in ("median", "median_low", "median_high"):
        assert np.isnan(found[name].sel(start=2)).all()
        assert np.isfinite(found[name].sel(start=1)).all()
