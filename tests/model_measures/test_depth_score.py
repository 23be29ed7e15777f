"""The depth score by hand, and of groups of prompts."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from lacscope.model_measures import (
    CSORDAS_DEPTH_SCORE,
    depth_score,
    depth_scores,
    future_skip_influence,
    influence_on_later_layers,
)
from lacscope.model_measures._depth_score import CSORDAS_DEPTH_SCORE_MATH
from lacscope.model_measures._skip_influence import influence_dataset
from lacscope.testing import tiny_model
from lacscope.traces._provenance import Preset, result_attrs

pytestmark = pytest.mark.once

NAN = np.nan
FIRST = np.array([[NAN, 0.5, 0.5, 2.0], [NAN, NAN, 1.0, 3.0], [NAN, NAN, NAN, 4.0], [NAN] * 4], dtype=np.float32)
SECOND = FIRST * np.array([[2.0], [1.0], [0.5], [1.0]], dtype=np.float32)
# e_l by hand: row sums over 3, 2, 1 and 1 later layers.
LATER = [[1.0, 2.0, 4.0, 0.0], [2.0, 2.0, 2.0, 0.0]]
OUTPUT = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]], dtype=np.float32)


def group(matrices: list[np.ndarray], output: np.ndarray, *, data: str = "", seed: int = 0, **more: str) -> xr.Dataset:
    attrs = result_attrs(
        "future_skip_influence",
        {"model": "made up"},
        preset=None,
        settings={"keep_first": 1, "seed": seed},
        positions="measured at p >= t",
        aggregation="max over positions and prompts",
        n_samples=len(matrices),
        data=data,
    )
    rest = {"influence_on": "future tokens", "unit": "block", **more}
    return influence_dataset(matrices, list(output), [10] * len(matrices), attrs | rest)


@pytest.fixture
def two() -> xr.Dataset:
    return group([FIRST, SECOND], OUTPUT, data="easy")


def slow_score(e: Any) -> float:
    return sum(layer * value for layer, value in enumerate(e)) / sum(e)


def test_score_by_hand() -> None:
    assert depth_score(xr.DataArray([1.0, 1.0, 2.0], {"skipped": [0, 1, 2]})).item() == 1.25
    assert depth_score(xr.DataArray([0.0, 0.0, 0.7], {"skipped": [0, 1, 2]})).item() == 2
    assert np.isnan(depth_score(xr.DataArray([0.0, 0.0], {"skipped": [0, 1]})).item())


def test_influence_on_later_layers_by_hand(two: xr.Dataset) -> None:
    np.testing.assert_allclose(influence_on_later_layers(two["influence"]), LATER)
    np.testing.assert_allclose(influence_on_later_layers(two["max_influence"]), [2, 2, 4, 0])


def test_scores_are_of_the_mean_over_samples(two: xr.Dataset) -> None:
    scores = depth_scores({"a": two})["score"].sel(group="a")
    assert scores.sel(measure="later layers").item() == pytest.approx(slow_score(np.mean(LATER, axis=0)))
    assert scores.sel(measure="output").item() == pytest.approx(slow_score(OUTPUT.mean(0)))


def test_scores_of_the_maximum_have_no_interval(two: xr.Dataset) -> None:
    found = depth_scores({"a": two}, over_samples="max")
    assert found["score"].sel(group="a", measure="later layers").item() == pytest.approx(slow_score([2, 2, 4, 0]))
    assert found["score"].sel(group="a", measure="output").item() == pytest.approx(slow_score([0.4, 0.3, 0.3, 0.4]))
    assert found["low"].isnull().all()
    assert found["high"].isnull().all()
    assert found.attrs["aggregation"] == "max over positions, max over prompts"


def test_intervals_cover_what_single_samples_say(two: xr.Dataset) -> None:
    """Of two samples one is drawn each time: the interval runs from one's own score to the other's."""
    found = depth_scores({"a": two}).sel(group="a")
    for measure, values in (("later layers", LATER), ("output", OUTPUT)):
        own = sorted(slow_score(e) for e in values)
        assert found["low"].sel(measure=measure).item() == pytest.approx(own[0])
        assert found["high"].sel(measure=measure).item() == pytest.approx(own[1])


def test_intervals_narrow_with_samples_and_follow_the_seed() -> None:
    rng = np.random.default_rng(0)

    def drawn(n: int) -> xr.Dataset:
        return group(
            [FIRST * rng.uniform(0.2, 2, (4, 1)).astype(np.float32) for _ in range(n)], rng.random((n, 4), "f")
        )

    few, many = drawn(5), drawn(80)
    found = depth_scores({"few": few, "many": many})
    width = found["high"] - found["low"]
    assert (width.sel(group="many") < 0.6 * width.sel(group="few")).all()
    assert ((found["low"] < found["score"]) & (found["score"] < found["high"])).all()
    xr.testing.assert_identical(depth_scores({"few": few}, seed=3), depth_scores({"few": few}, seed=3))
    assert not depth_scores({"few": few}, seed=3)["low"].equals(depth_scores({"few": few}, seed=4)["low"])


def test_one_sample_has_no_interval() -> None:
    found = depth_scores({"a": group([FIRST], OUTPUT[:1])})
    assert found["low"].isnull().all()
    assert found["score"].notnull().all()


def test_deeper_influence_scores_deeper() -> None:
    shallow, deep = np.array([[1.0, 0.1, 0.1, 0.1]], dtype="f"), np.array([[0.1, 0.1, 0.1, 1.0]], dtype="f")
    found = depth_scores({"1 hop": group([FIRST], shallow), "2 hops": group([FIRST], deep)})
    output = found["score"].sel(measure="output")
    assert output.sel(group="1 hop") < 1 < 2 < output.sel(group="2 hops")


def test_attributes(two: xr.Dataset) -> None:
    found = depth_scores({"1 hop": two, "2 hops": group([FIRST], OUTPUT[:1], data="hard")})
    assert found.attrs["data"] == "1 hop: easy; 2 hops: hard"
    assert found.attrs["n_samples"] == 3
    assert found["n_samples"].values.tolist() == [2, 1]
    assert found.attrs["n_layers"] == 4
    assert "data = 1 hop: easy; 2 hops: hard (paper: MQuAKE by hops)" in found.attrs["departures"]
    assert "cuts = none (paper: given), cuts_per_prompt = 0 (paper: 1)" in found.attrs["departures"]


def test_one_cut_for_multi_hop_questions_and_four_for_math() -> None:
    ids = list(range(3, 20))
    model = tiny_model(n_layers=3)

    def departures(preset: Preset, cuts: list[list[int]] | None = None) -> str:
        found = depth_scores({"1": future_skip_influence(model, [ids, ids], cuts=cuts)}, preset=preset)
        return str(found.attrs["departures"])

    one, four = [[13], [13]], [[9, 10, 11, 12], [11]]
    unnamed = "data not named (paper: {})".format
    hops, math = unnamed("MQuAKE by hops"), unnamed("MATH by level")
    assert departures(CSORDAS_DEPTH_SCORE, one) == hops
    assert departures(CSORDAS_DEPTH_SCORE, four) == f"{hops}, cuts_per_prompt = 4 (paper: 1)"
    assert departures(CSORDAS_DEPTH_SCORE_MATH, four) == math
    assert departures(CSORDAS_DEPTH_SCORE_MATH, one) == f"{math}, cuts_per_prompt = 1 (paper: 4)"
    assert "cuts = random (paper: given)" in departures(CSORDAS_DEPTH_SCORE)


def test_groups_that_do_not_fit_together_are_refused(two: xr.Dataset, unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"groups is empty: give at least one result of future_skip_influence"):
        depth_scores({})
    with pytest.raises(ValueError, match=r"over_samples is 'mean' or 'max', got 'median'"):
        depth_scores({"a": two}, over_samples="median")
    with pytest.raises(ValueError, match=r"groups 'a' and 'b' have 4 and 3 layers: compare groups of one model"):
        depth_scores({"a": two, "b": group([FIRST[:3, :3]], OUTPUT[:1, :3])})
    with pytest.raises(ValueError, match=r"groups 'a' and 'b' differ in unit: block and mlp. Compare groups measured"):
        depth_scores({"a": two, "b": group([FIRST], OUTPUT[:1], unit="mlp")})
    with pytest.raises(ValueError, match=r"differ in settings: .*\"seed\": 0.* and .*\"seed\": 1"):
        depth_scores({"a": two, "b": group([FIRST], OUTPUT[:1], seed=1)})


@pytest.mark.parametrize("where", ["later", "output"])
def test_an_influence_that_is_not_finite_is_refused(where: str) -> None:
    found = group([FIRST, SECOND], OUTPUT)
    if where == "later":
        found["influence"][1, 0, 2] = np.inf
    else:
        found["output_influence"][1, 0] = NAN
    with pytest.raises(ValueError, match=r"group 'one': the influence of sample 1 is not finite\. Load the model in"):
        depth_scores({"one": found})
