"""The summary of a scores table against plain counting, and conditions that are the full model told apart."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lacscope.reproduction.scores._conditions import by_seed, conditions, identical_to_full
from lacscope.reproduction.scores._scores import accuracy_by_group, reference_lines, summarise, usage_by_layer
from lacscope.testing import synthetic_norms, synthetic_scores
from lacscope.trace_analyses._statistics import wilson_interval

pytestmark = pytest.mark.once


@pytest.fixture
def scores() -> pd.DataFrame:
    return synthetic_scores(24, 6, 4, task="mmlu")


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


def test_one_row_per_condition(scores: pd.DataFrame) -> None:
    key = ["model", "task", "style", "scoring", "effect", "rule", "alpha", "protect"]
    summary = summarise(scores, draws=20)
    assert len(summary) == len(scores[key].drop_duplicates())
    assert not summary[key].duplicated().any()
    pd.testing.assert_frame_equal(summary, summarise(scores.sample(frac=1, random_state=0).sort_index(), draws=20))


def test_shares_and_nats_are_those_counted_by_hand(scores: pd.DataFrame) -> None:
    found = one(summarise(scores, draws=50), **LAC)
    rows = where(scores, **LAC).to_dict("records")
    right = [row["correct"] for row in rows]
    assert (found["n"], found["seeds"]) == (24, 1)
    assert found["accuracy"] == sum(right) / 24
    assert (found["accuracy_low"], found["accuracy_high"]) == wilson_interval(sum(right), 24)
    assert found["agreement"] == sum(row["agrees"] for row in rows) / 24
    assert found["margin"] == np.median([row["margin"] for row in rows])
    assert found["kl"] == np.median([row["kl_to_full"] for row in rows])
    assert found["kl_low"] <= found["kl"] <= found["kl_high"]
    assert found["target_logp"] == pytest.approx(np.mean([row["target_logp"] for row in rows]))
    subjects = [[row["correct"] for row in rows if row["group"] == f"subject {s}"] for s in range(4)]
    assert found["accuracy_macro"] == pytest.approx(np.mean([np.mean(subject) for subject in subjects]))


def test_log_probability_is_per_token() -> None:
    scores = synthetic_scores(10, n_choices=1, task="gsm8k")
    found = one(summarise(scores, draws=50), **LAC)
    assert found["target_logp"] == pytest.approx((where(scores, **LAC)["target_logp"] / 3).mean())
    assert math.isnan(found["margin"])
    assert math.isnan(found["accuracy_macro"])


def test_the_unparseable_are_counted_apart() -> None:
    scores = synthetic_scores(30)
    rows = where(scores, scoring="generated", effect="bypass", alpha=1.0)
    found = one(summarise(scores, draws=20), scoring="generated", effect="bypass", alpha=1.0)
    assert found["unparseable"] == rows["unparseable"].mean() > 0
    assert not rows.loc[rows["unparseable"], "correct"].any()


def test_usage_pools_pairs_of_token_and_layer(scores: pd.DataFrame) -> None:
    at = {"scoring": "generated", "effect": "observe", "alpha": 0.4}
    found, rows = one(summarise(scores, draws=200), **at), where(scores, **at).to_dict("records")
    for phase in ("prefill", "decode"):
        active = sum(sum(row[f"active_{phase}"]) for row in rows)
        tokens = sum(row[f"n_{phase}"] for row in rows)
        assert found[f"usage_{phase}"] == pytest.approx(active / (6 * tokens))
        assert found[f"usage_{phase}_low"] < found[f"usage_{phase}"] < found[f"usage_{phase}_high"]
        for name in ("exit", "skippable"):
            weighted = sum(row[f"{name}_{phase}"] * row[f"n_{phase}"] for row in rows) / tokens
            assert found[f"{name}_{phase}"] == pytest.approx(weighted)
    active = sum(sum(row["active_prefill"]) - sum(row["active_sink"]) for row in rows)
    tokens = sum(row["n_prefill"] - row["n_sink"] for row in rows)
    assert found["usage_prefill_no_sinks"] == pytest.approx(active / (6 * tokens))


def test_a_phase_without_tokens_has_no_usage(scores: pd.DataFrame) -> None:
    found = one(summarise(scores, draws=20), **LAC)
    names = ["usage_decode", "usage_decode_by_sample", "usage_decode_low", "exit_decode", "skippable_decode"]
    assert found[names].isna().all()


def test_several_seeds_are_resampled_too(scores: pd.DataFrame) -> None:
    control = {"effect": "readout", "rule": "permuted_exits"}
    rows = where(scores, **control)
    # One seed always right, one always wrong: Wilson over 24 answers would claim to know the mean.
    scores.loc[rows.index, "correct"] = rows["seed"] == 0
    found = one(summarise(scores, draws=400), **control)
    assert (found["n"], found["seeds"], found["accuracy"]) == (12, 2, 0.5)
    assert (found["accuracy_low"], found["accuracy_high"]) == (0.0, 1.0)


def test_the_score_of_early_exits_alone(scores: pd.DataFrame) -> None:
    found, rows = one(summarise(scores, draws=20), **LAC), where(scores, **LAC)
    full = where(scores, scoring="choice", effect="none").set_index("sample")["correct"]
    exits = rows[rows["early"] > 0]
    assert (found["scored"], found["early"], found["n_early"]) == (24, rows["early"].sum(), len(exits))
    assert found["accuracy_early"] == exits["correct"].mean()
    assert found["accuracy_early_full"] == full[exits["sample"]].mean()
    assert found["kl_early"] == exits["kl_to_full"].median() > 0


# --- what is the full model -----------------------------------------------------------------------------


def test_readout_without_early_exits_is_identical_by_construction(scores: pd.DataFrame) -> None:
    before = one(summarise(scores, draws=20), **LAC)
    assert (bool(before["identical"]), before["why"]) == (False, "")
    scores.loc[where(scores, **LAC).index, "early"] = 0
    after = one(summarise(scores, draws=20), **LAC)
    assert (bool(after["identical"]), after["why"]) == (True, "by construction")
    assert math.isnan(after["accuracy_early"])


def test_bypass_without_voids_is_identical_by_construction(scores: pd.DataFrame) -> None:
    at = {"scoring": "generated", "effect": "bypass", "alpha": 0.4}
    rows = where(scores, **at)
    for phase in ("prefill", "decode"):
        scores.loc[rows.index, f"active_{phase}"] = pd.Series([[n] * 6 for n in rows[f"n_{phase}"]], rows.index)
    assert one(summarise(scores, draws=20), **at)["why"] == "by construction"


def test_answers_all_equal_are_identical() -> None:
    summary = summarise(synthetic_scores(20, harm=0.0), draws=20)
    changed = summary[summary["effect"].isin(["readout", "bypass"])]
    assert set(changed["why"]) == {"in every answer"}
    assert set(summary.loc[summary["effect"] == "none", "why"]) == {""}


def test_one_answer_with_another_log_probability_is_not_identical() -> None:
    scores = synthetic_scores(20, harm=0.0)
    index = where(scores, **LAC).index[3]
    for nats, why in ((1e-5, "in every answer"), (1e-3, "")):
        scores.at[index, "choice_logp"] = [x + nats for x in scores.at[index, "choice_logp"]]
        assert one(summarise(scores, draws=20), **LAC)["why"] == why


def test_a_private_task_is_not_called_identical_for_want_of_text() -> None:
    at = {"scoring": "generated", "effect": "bypass", "alpha": 1.0}
    for private, why in ((False, "in every answer"), (True, "")):
        scores = synthetic_scores(10, harm=0.0, private=private)
        assert (where(scores, scoring="generated")["text"] == "").all() == private
        assert one(summarise(scores, draws=20), **at)["why"] == why


def test_equal_choices_with_other_texts_are_not_identical() -> None:
    scores = synthetic_scores(10, harm=0.0)
    rows = where(scores, scoring="generated", effect="bypass", alpha=1.0)
    scores.loc[rows.index[0], "text"] = "It must be 1."
    _, found, full = next(c for c in conditions(scores) if len(c[1]) and c[1].index[0] == rows.index[0])
    assert identical_to_full(found, full) == ""


# --- the table itself -----------------------------------------------------------------------------------


def test_scores_read_back_from_parquet_give_the_same_summary(scores: pd.DataFrame, tmp_path: Path) -> None:
    scores.to_parquet(tmp_path / "scores.parquet")
    again = pd.read_parquet(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(summarise(again, draws=20), summarise(scores, draws=20))


def test_seeds_share_their_samples(scores: pd.DataFrame) -> None:
    control = where(scores, effect="readout", rule="permuted_exits")
    dropped = scores.drop(control.index[(control["seed"] == 1) & (control["sample"] == 0)])
    assert one(summarise(dropped, draws=20), effect="readout", rule="permuted_exits")["n"] == 11


def test_a_sample_without_a_value_is_left_out(scores: pd.DataFrame) -> None:
    rows = where(scores, **LAC)
    rows = rows.assign(margin=rows["margin"].where(rows["sample"] != 5))
    assert 5 not in by_seed(rows, "margin").columns
    assert by_seed(rows, "margin").shape == (1, 23)


def test_what_a_table_must_have(scores: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"the scores lack picked, early; they have model, task"):
        summarise(scores.drop(columns=["picked", "early"]))
    with pytest.raises(ValueError, match=r"1 rows stand twice, the first with model synthetic, .* sample 0: join each"):
        summarise(pd.concat([scores, scores.iloc[:1]]))
    with pytest.raises(ValueError, match=r"no row of the full model .* for model 'synthetic', .* scoring 'choice'"):
        summarise(scores[scores["effect"] != "none"])


def test_accuracy_by_subject_and_by_what_it_belongs_to(scores: pd.DataFrame) -> None:
    subjects = where(accuracy_by_group(scores), **LAC).set_index("group")
    names = {"subject 0": "STEM", "subject 1": "STEM", "subject 2": "other", "subject 3": "other"}
    together = where(accuracy_by_group(scores, names), **LAC).set_index("group")
    rows = where(scores, **LAC)
    for subject in names:
        assert subjects.loc[subject, "accuracy"] == rows.loc[rows["group"] == subject, "correct"].mean()
    assert together["n"].to_dict() == {"STEM": 12, "other": 12}
    assert together.loc["STEM", "accuracy"] == rows.loc[rows["sample"] % 4 < 2, "correct"].mean()
    with pytest.raises(ValueError, match="names has no entry for 'subject 3': name every group"):
        accuracy_by_group(scores, {f"subject {s}": "x" for s in range(3)})


def test_usage_by_layer_counts_tokens(scores: pd.DataFrame) -> None:
    found = usage_by_layer(scores)
    assert found["usage"].dims == ("alpha", "phase", "layer")
    rows = where(scores, scoring="generated", effect="observe", alpha=0.4)
    for phase in ("prefill", "decode"):
        at = found.sel(alpha=0.4, phase=phase)
        active = np.sum(rows[f"active_{phase}"].to_list(), axis=0)
        np.testing.assert_allclose(at["usage"], active / rows[f"n_{phase}"].sum())
        np.testing.assert_allclose(at["relative"], active / active.max())
        assert int(at["n"]) == rows[f"n_{phase}"].sum()
    plain = np.sum(rows["active_prefill"].to_list(), axis=0) - np.sum(rows["active_sink"].to_list(), axis=0)
    tokens = (rows["n_prefill"] - rows["n_sink"]).sum()
    np.testing.assert_allclose(found["usage_no_sinks"].sel(alpha=0.4, phase="prefill"), plain / tokens)
    np.testing.assert_allclose(found["usage_no_sinks"].sel(phase="decode"), found["usage"].sel(phase="decode"))


def test_usage_by_layer_without_decode_tokens_is_nan(scores: pd.DataFrame) -> None:
    found = usage_by_layer(scores, scoring="choice")
    for name in ("usage", "usage_no_sinks", "relative"):
        assert found[name].sel(phase="decode").isnull().all()
        assert found[name].sel(phase="prefill").notnull().all()


def test_usage_by_layer_says_what_there_is(scores: pd.DataFrame) -> None:
    with pytest.raises(
        ValueError, match=r"no rows of LAC under 'zero' scored by 'choice'; there are: choice none full"
    ):
        usage_by_layer(scores, effect="zero")
    with pytest.raises(ValueError, match="usage_by_layer takes one task, got mmlu, boolq: select one first"):
        usage_by_layer(pd.concat([scores, synthetic_scores(4, 6)]))


def test_reference_lines(scores: pd.DataFrame) -> None:
    full = where(scores, scoring="choice", effect="none")
    lines = reference_lines(scores, 0.25)
    assert lines["full"] == full["correct"].mean()
    assert (lines["full_low"], lines["full_high"]) == wilson_interval(int(full["correct"].sum()), 24)
    assert lines["chance"] == 0.25
    assert lines["majority"] == full["target"].value_counts().max() / 24
    alone = reference_lines(synthetic_scores(10, n_choices=1), None)
    assert math.isnan(alone["chance"])
    assert math.isnan(alone["majority"])
    with pytest.raises(ValueError, match=r"no row of the full model .* scored by 'spoken'"):
        reference_lines(scores, None, scoring="spoken")


def test_synthetic_tables_are_what_they_say() -> None:
    scores = synthetic_scores(12, 5)
    full = scores[scores["effect"] == "none"]
    assert (full["active_prefill"].map(sum) == 5 * full["n_prefill"]).all()
    assert set(scores.loc[~scores["rule"].isin(["full", "lac"]), "sample"]) == set(range(6))
    pd.testing.assert_frame_equal(scores, synthetic_scores(12, 5))
    norms = synthetic_norms(3, 5)
    assert len(norms) == 3 * 2 * 5
    np.testing.assert_allclose(
        norms["resid_post_norm_median"] - norms["delta_norm_median"], norms["resid_pre_norm_median"]
    )
