"""Comparisons with planted truths: identical conditions, real differences, models that know nothing."""

import numpy as np
import pandas as pd
import pytest

from lacscope.reproduction.scores._comparisons import compare
from lacscope.testing import synthetic_scores
from lacscope.trace_analyses._statistics import holm, mcnemar_exact, smallest_detectable_difference

pytestmark = pytest.mark.once


def where(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    chosen = np.ones(len(table), bool)
    for column, value in values.items():
        chosen &= (table[column] == value).to_numpy()
    return table[chosen]


def one(table: pd.DataFrame, **values: object) -> pd.Series:
    found = where(table, **values)
    assert len(found) == 1
    return found.iloc[0]


LAC = {"scoring": "choice", "effect": "readout", "rule": "lac", "alpha": 0.8}
PERMUTED = {"effect": "readout", "rule": "permuted_exits"}


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return synthetic_scores(60, 4)


@pytest.fixture(scope="module")
def compared(scores: pd.DataFrame) -> pd.DataFrame:
    return compare(scores, draws=300)


def test_every_condition_stands_against_the_full_model_and_lac_against_every_control(
    scores: pd.DataFrame, compared: pd.DataFrame
) -> None:
    key = ["scoring", "effect", "rule", "alpha", "protect"]
    made = scores.loc[~scores["effect"].isin(["none", "observe"]), key].drop_duplicates()
    controls = made[made["rule"] != "lac"]
    against_full = compared[compared["against"] == "full"]
    assert sorted(map(tuple, against_full[key].to_numpy())) == sorted(map(tuple, made.to_numpy()))
    against_controls = compared[compared["against"] != "full"]
    assert set(against_controls["rule"]) == {"lac"}
    found = against_controls[["scoring", "effect", "against", "alpha", "against_protect"]]
    assert sorted(map(tuple, found.to_numpy())) == sorted(map(tuple, controls.to_numpy()))


def test_a_comparison_is_counted_by_hand(scores: pd.DataFrame, compared: pd.DataFrame) -> None:
    row = one(compared, **LAC, against="full")
    ours = where(scores, **LAC).set_index("sample")
    full = where(scores, scoring="choice", effect="none").set_index("sample").loc[ours.index]
    test = mcnemar_exact(ours["correct"].to_numpy(), full["correct"].to_numpy())
    assert (row["p"], row["only_condition"], row["only_against"]) == test
    assert row["difference"] == pytest.approx(ours["correct"].mean() - full["correct"].mean())
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    assert row["detectable"] == pytest.approx(smallest_detectable_difference(60, (test.only_a + test.only_b) / 60))
    assert row["margin_difference"] == pytest.approx((ours["margin"] - full["margin"]).mean())
    assert row["kl_difference"] == pytest.approx(ours["kl_to_full"].mean())
    assert row["target_logp_difference"] == pytest.approx((ours["target_logp"] - full["target_logp"]).mean())
    assert row["margin_difference_high"] < 0 < row["kl_difference_low"]


def test_controls_are_compared_on_the_samples_that_both_have(scores: pd.DataFrame, compared: pd.DataFrame) -> None:
    row = one(compared, **LAC, against="permuted_exits")
    ours = where(scores, **LAC).set_index("sample")["correct"]
    theirs = where(scores, **PERMUTED).groupby("sample")["correct"].mean()
    assert (row["n"], row["seeds"]) == (30, 2)
    assert row["accuracy"] == pytest.approx(ours[theirs.index].mean())
    assert row["difference"] == pytest.approx((ours[theirs.index] - theirs).mean())


def test_seeds_are_not_added_up_as_if_they_were_samples(scores: pd.DataFrame, compared: pd.DataFrame) -> None:
    row = one(compared, **LAC, against="permuted_exits")
    ours = where(scores, **LAC).set_index("sample")["correct"]
    tests = []
    for _, theirs in where(scores, **PERMUTED).groupby("seed"):
        right = theirs.set_index("sample")["correct"]
        tests.append(mcnemar_exact(ours[right.index].to_numpy(), right.to_numpy()))
    assert row["p"] == max(test.p for test in tests)
    assert (row["p"], row["only_condition"], row["only_against"]) in tests


def test_one_primary_comparison_and_the_rest_corrected_together(compared: pd.DataFrame) -> None:
    primary = compared[compared["primary"]]
    assert primary[["scoring", "effect", "rule", "alpha", "against"]].to_numpy().tolist() == [
        ["choice", "readout", "lac", 0.8, "full"]
    ]
    assert primary["p_adjusted"].isna().all()
    rest = compared[~compared["primary"]]
    np.testing.assert_array_equal(rest["p_adjusted"], holm(rest["p"].to_numpy()))


def test_the_primary_style_is_the_papers() -> None:
    paper = synthetic_scores(10, 4)
    both = compare(pd.concat([paper.assign(style="a plain one"), paper]), draws=20)
    assert both.loc[both["primary"], "style"].tolist() == ["paper"]
    plain = compare(paper.assign(style="plain"), draws=20)
    assert plain["primary"].sum() == 1


def test_tasks_are_corrected_apart() -> None:
    boolq, arc = synthetic_scores(30, 4), synthetic_scores(30, 4, 4, task="arc", seed=5)
    both = compare(pd.concat([boolq, arc]), draws=20)
    alone = compare(boolq, draws=20)
    pd.testing.assert_frame_equal(both[both["task"] == "boolq"].reset_index(drop=True), alone)


def test_identical_conditions_have_no_p() -> None:
    found = compare(synthetic_scores(20, 4, harm=0.0), draws=50)
    assert found["identical"].all()
    assert found[["p", "p_adjusted"]].isna().all(axis=None)
    assert (found["difference"] == 0).all()
    assert set(found.loc[found["against"] == "full", "why"]) == {"identical in every answer"}
    assert set(found.loc[found["against"] != "full", "why"]) == {
        "the control is identical to the full model (in every answer)"
    }


def test_lac_identical_by_construction_is_not_compared(scores: pd.DataFrame) -> None:
    still = scores.assign(early=scores["early"].where((scores["effect"] != "readout") | (scores["rule"] != "lac"), 0))
    found = where(compare(still, draws=20), effect="readout", rule="lac")
    assert set(found["why"]) == {"identical by construction"}
    assert found["p"].isna().all()


def test_a_planted_difference_is_found(scores: pd.DataFrame) -> None:
    better = scores.copy()
    better.loc[where(scores, **LAC).index, "correct"] = True
    row = one(compare(better, draws=300), **LAC, against="full")
    assert row["only_against"] == 0
    assert row["p"] < 0.01
    assert row["difference_low"] > 0


@pytest.mark.parametrize(("shift", "testable"), [(-0.3, False), (0.0, False), (0.3, True)])
def test_a_model_no_better_than_a_constant_answer_is_not_testable(shift: float, testable: bool) -> None:
    """Also below it: SmolLM2 has 0.22 on MMLU where a constant answer has 0.29."""
    scores = synthetic_scores(100, 4)
    full = where(scores, scoring="choice", effect="none")
    constant = full["target"].value_counts().max() / 100
    scores.loc[full.index, "correct"] = np.arange(100) < 100 * min(1.0, constant + shift)
    found = where(compare(scores, draws=20), scoring="choice")
    assert set(found["testable"]) == {testable}
    assert set(found["constant"]) == {constant}


def test_a_task_without_choices_is_testable_once_it_has_an_answer_right() -> None:
    scores = synthetic_scores(20, 4, n_choices=1)
    assert compare(scores, draws=20)["testable"].all()
    scores.loc[scores["effect"] == "none", "correct"] = False
    found = compare(scores, draws=20)
    assert not found["testable"].any()
    assert found["constant"].isna().all()
    assert found["margin_difference"].isna().all()


def test_mmlu_is_resampled_within_its_subjects() -> None:
    """Subjects that differ by a constant shift leave no spread within: the interval shrinks to the difference."""
    scores = synthetic_scores(40, 4, task="mmlu")
    rows = where(scores, **LAC)
    full = where(scores, scoring="choice", effect="none").set_index("sample")["margin"]
    shift = rows["sample"] % 4
    scores.loc[rows.index, "margin"] = full[rows["sample"]].to_numpy() + shift
    row = one(compare(scores, draws=100), **LAC, against="full")
    assert row["margin_difference_low"] == pytest.approx(1.5)
    assert row["margin_difference_high"] == pytest.approx(1.5)


def test_nothing_to_compare_gives_an_empty_table(scores: pd.DataFrame) -> None:
    assert compare(scores[scores["effect"].isin(["none", "observe"])]).empty
