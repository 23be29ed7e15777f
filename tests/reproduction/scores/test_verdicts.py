"""Verdicts in words, on tables whose truth is known."""

import re

import numpy as np
import pandas as pd
import pytest

from lacscope.reproduction.scores._comparisons import compare
from lacscope.reproduction.scores._norm_null import null_share
from lacscope.reproduction.scores._verdicts import verdict
from lacscope.testing import synthetic_scores

pytestmark = pytest.mark.once

CLAIMS = re.compile(r"beats|is worse|is better|LAC is")


def planted(rule: str, effect: str, alpha: float, right: float, *, n: int = 200) -> pd.DataFrame:
    """Everything is the full model (right on 0.7 of the samples) but one condition, right on the share ``right``."""
    scores = synthetic_scores(n, 4, harm=0.0, alphas=(0.1, 0.8))
    scores["correct"] = scores["sample"] * 37 % 100 < 70
    changed = scores.index[(scores["rule"] == rule) & (scores["effect"] == effect) & (scores["alpha"] == alpha)]
    changed = changed[scores.loc[changed, "scoring"] == "choice"]
    scores.loc[changed, "correct"] = scores.loc[changed, "sample"] * 37 % 100 < 100 * right
    scores.loc[changed, "choice_logp"] = scores.loc[changed, "choice_logp"].map(lambda logp: [x - 1 for x in logp])
    scores["early"] = 1
    return scores


def said(scores: pd.DataFrame, *parts: str) -> list[str]:
    return [line for line in verdict(compare(scores, draws=300)) if all(part in line for part in parts)]


def test_all_identical_claims_nothing() -> None:
    lines = verdict(compare(synthetic_scores(60, 4, harm=0.0), draws=50))
    assert lines
    assert not [line for line in lines if CLAIMS.search(line)]
    assert any("(the primary comparison): the full model, identical in every answer; no result." in x for x in lines)
    assert any("the control is identical to the full model (in every answer); no result." in line for line in lines)
    assert any("cannot be compared with the random skip" in line for line in lines)


def test_a_planted_gain_beats_the_full_model() -> None:
    (line,) = said(planted("lac", "readout", 0.8, 0.85), "the primary comparison")
    assert line.startswith("synthetic, boolq (paper prompts, choice), readout at alpha 0.8 (the primary comparison): ")
    assert "skipping voids beats the full model: accuracy +0.150 [+0.1" in line
    assert "30 against 0 discordant, p = 1.9e-09, n = 200." in line


def test_a_planted_loss_is_worse() -> None:
    (line,) = said(planted("lac", "bypass", 0.8, 0.4), "bypass: skipping voids")
    assert "skipping voids is worse than the full model at alpha 0.8: accuracy -0.300" in line
    assert "Holm-corrected p = " in line


def test_a_gain_that_chance_could_give_is_not_claimed() -> None:
    (line,) = said(planted("lac", "readout", 0.8, 0.72), "the primary comparison")
    assert "no difference from the full model is shown: accuracy +0.020" in line
    assert "a true difference under 0.039 would likely be missed" in line


@pytest.mark.parametrize("seed", range(6))
def test_no_claim_without_both_interval_and_test(seed: int) -> None:
    compared = compare(synthetic_scores(60, 4, harm=0.4, seed=seed), draws=100)
    rows = compared[(compared["rule"] == "lac") & ~compared["identical"]]
    p = rows["p"].where(rows["primary"], rows["p_adjusted"])
    claimable = (p < 0.05) & ((rows["difference_low"] > 0) | (rows["difference_high"] < 0))
    lines = [line for line in verdict(compared) if "discordant" in line]
    claims = sum(len(re.findall("discordant", line)) for line in lines if CLAIMS.search(line))
    assert claims == claimable.sum()
    assert sum(len(re.findall("discordant", line)) for line in lines) == len(rows)


def test_lac_beats_the_random_skip_where_every_form_of_it_is_beaten() -> None:
    scores = planted("random_layers", "bypass", 0.1, 0.3)
    (line,) = said(scores, "bypass at alpha 0.1: skipping voids")
    # LAC is the full model there: random_tokens, identical too, is no result and is not counted.
    assert line.endswith("one of them is the full model.")
    lac = scores.index[(scores["rule"] == "lac") & (scores["effect"] == "bypass") & (scores["alpha"] == 0.1)]
    scores.loc[lac, "choice_logp"] = scores.loc[lac, "choice_logp"].map(lambda logp: [x - 0.1 for x in logp])
    (line,) = said(scores, "bypass at alpha 0.1: ")
    assert line.endswith("skipping voids beats the random skip of the same budget, in all 2 forms.")
    assert len(said(scores, "LAC against random_layers", "LAC is better: accuracy +0.")) == 2
    assert len(said(scores, "LAC against random_layers (first and last layer protected)")) == 1


def test_mixed_results_against_the_random_skip_are_said_as_they_are() -> None:
    scores = planted("random_layers", "bypass", 0.1, 0.3)
    control = scores["rule"].isin(["random_tokens"]) | ((scores["rule"] == "lac") & (scores["effect"] == "bypass"))
    changed = scores.index[control & (scores["alpha"] == 0.1)]
    scores.loc[changed, "choice_logp"] = scores.loc[changed, "choice_logp"].map(lambda logp: [x - 0.1 for x in logp])
    (line,) = said(scores, "bypass at alpha 0.1: ")
    assert "in 4 forms, skipping voids is better in 2, worse in 0, and not shown to differ in 2." in line


def test_a_useless_model_gets_no_verdict() -> None:
    lines = verdict(compare(synthetic_scores(60, 4, skill=0.0), draws=50))
    assert len(lines) == 2
    for line, scoring in zip(lines, ("choice", "generated"), strict=True):
        assert line.startswith(
            f"synthetic, boolq (paper prompts, {scoring}): not testable on this task: the full model's"
        )
        assert "does not stand above the best constant answer's 0." in line
        assert line.endswith("No verdict.")
        assert not CLAIMS.search(line)


def test_a_model_with_no_answer_right_gets_no_verdict() -> None:
    scores = synthetic_scores(20, 4, n_choices=1).assign(correct=False)
    assert "0.000 [0.000, 0.161] is not told from 0. No verdict." in verdict(compare(scores, draws=20))[0]


def test_a_missing_primary_comparison_is_said_first() -> None:
    scores = synthetic_scores(40, 4, alphas=(0.0, 0.5))
    first = verdict(compare(scores, draws=20))[0]
    assert first == "synthetic, boolq: the primary comparison (readout at alpha 0.8, choice accuracy) was not run."


def test_continuous_outcomes_are_said_with_their_intervals() -> None:
    lines = verdict(compare(synthetic_scores(60, 4, seed=1), draws=200))
    (line,) = [x for x in lines if "readout at alpha 0.8, LAC less the full model" in x]
    assert "(95 % intervals, not corrected for their number)" in line
    assert re.search(r"margin of the right choice, nats: -0\.\d+ \[-0\.\d+, -0\.\d+\];", line)
    assert re.search(r"KL to the full model, nats: \+0\.\d+ \[\+0\.\d+, \+0\.\d+\]\.", line)
    permuted = [x for x in lines if "LAC less permuted_exits" in x]
    assert len(permuted) == 1
    assert "(not told from 0)" in permuted[0]


def test_an_outcome_that_is_missing_is_not_mentioned() -> None:
    lines = verdict(compare(synthetic_scores(40, 4, n_choices=1), draws=50))
    assert any("log-probability of the right answer" in line for line in lines)
    assert not any("margin" in line or "nan" in line for line in lines)


def test_a_lac_that_is_the_full_model_is_named_so_beside_its_controls() -> None:
    scores = synthetic_scores(60, 4)
    scores["early"] = scores["early"].where((scores["effect"] != "readout") | (scores["rule"] != "lac"), 0)
    (line,) = said(scores, "readout at alpha 0.8, LAC against constant_exit")
    assert line.endswith("LAC is the full model, identical by construction; no result.")


def test_what_the_norm_only_null_leaves_is_said() -> None:
    scores = synthetic_scores(60, 4, seed=1)
    rows = scores[scores["rule"] == "norm_null"]
    scores.loc[rows.index, "active_prefill"] = pd.Series([[n, n, 0, n] for n in rows["n_prefill"]], rows.index)
    compared = compare(scores, draws=100)
    null = null_share(scores, compared)
    lines = [line for line in verdict(compared, null) if "null leaves" in line]
    assert len(lines) == 2
    assert re.search(
        r"readout at alpha 0\.8: the norm-only null leaves \d+% of the prefill usage profile over; LAC's", lines[0]
    )
    assert "LAC's accuracy less the null's is" in lines[0]
    assert lines[0].endswith("(no difference is shown).")
    decode = [line for line in verdict(compared, null) if "there is no decode usage profile to explain" in line]
    assert len(decode) == 2


def test_private_text_is_in_no_sentence() -> None:
    scores = synthetic_scores(40, 4)
    scores["text"] = np.where(scores["scoring"] == "generated", "SECRET", "")
    assert not any("SECRET" in line for line in verdict(compare(scores, draws=20)))
