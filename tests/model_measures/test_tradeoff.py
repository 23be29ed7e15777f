"""What plans cost and save, on a tiny model."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lacscope.model_measures import block_influence
from lacscope.model_measures._choices import score_choices
from lacscope.model_measures._tradeoff import best_constant, plan_tradeoff, skipping_plans
from lacscope.models.adapters import execution_of
from lacscope.plans import Plan, plan
from lacscope.plots import style
from lacscope.plots._tradeoff import plot_plan_tradeoff
from lacscope.tasks._base import Question
from lacscope.testing import tiny_model

QUESTIONS = [
    Question(i, "", prompt, False, ("deep", "cold"), i % 2, "")
    for i, prompt in enumerate(("the river rises in a wood", "is it deep", "a cold river rises"))
]
PLANS = {"full": Plan.full(4), "deepest, 2": Plan.skip(4, [2, 3]), "deepest, 1": Plan.skip(4, [3])}


def test_answers_are_those_under_the_plan(tiny_with_tokenizer: Any) -> None:
    seen: list[tuple[int, int]] = []
    found = plan_tradeoff(
        tiny_with_tokenizer, QUESTIONS, PLANS, decode_steps=2, rounds=3, progress=lambda a, b: seen.append((a, b))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert np.all(found["logp_change"].sel(plan="full") == 0)
    full = score_choices(tiny_with_tokenizer, QUESTIONS)
    with plan(tiny_with_tokenizer, PLANS["deepest, 2"]):
        expected = score_choices(tiny_with_tokenizer, QUESTIONS)
    change = found["logp_change"].sel(plan="deepest, 2")
    np.testing.assert_allclose(change, expected["target_logp"] - full["target_logp"], atol=1e-6)
    assert found["correct"].sel(plan="deepest, 2").values.tolist() == expected["correct"].tolist()
    assert found["skipped_share"].values.tolist() == [0, 0.5, 0.25]
    assert found["best_constant"].item() == pytest.approx(2 / 3)
    assert found["decode_ratio"].shape == (3, 3)
    assert bool((found["decode_ratio"] > 0).all())


def test_questions_with_choices_of_their_own_have_no_constant_answer() -> None:
    others = [*QUESTIONS[:2], replace(QUESTIONS[2], choices=("wood", "cold"))]
    assert np.isnan(best_constant(others))


def test_every_way_of_choosing_skips_as_many_and_keeps_the_ends(tiny_with_tokenizer: Any) -> None:
    plans = skipping_plans(tiny_with_tokenizer, ["the river rises in a wood", "is it deep"], [1, 2], seeds=(0,))
    assert list(plans)[:5] == [
        "frozen LAC, 1",
        "unified as published, 1",
        "evenly spaced, 1",
        "Block Influence, 1",
        "random, 1, seed 0",
    ]
    for name, one in plans.items():
        assert len(one.skipped) == int(name.split(", ")[1])
        assert not {0, 3} & one.skipped
    influence = block_influence(tiny_with_tokenizer, ["the river rises in a wood", "is it deep"])["block_influence"]
    least = int(influence.mean("sample").values[1:3].argmin()) + 1
    assert plans["Block Influence, 1"].skipped == {least}
    with pytest.raises(ValueError, match="skips 3 layers; of 4 the first and last are kept: at most 2"):
        skipping_plans(tiny_with_tokenizer, ["is it deep"], [3])
    for none in ([], [0], [1, -1]):
        with pytest.raises(ValueError, match=r"skips must be numbers of layers, each at least 1; got \["):
            skipping_plans(tiny_with_tokenizer, ["is it deep"], none)


def test_published_spacing_is_one_stretch_and_even_spacing_is_not() -> None:
    plans = skipping_plans(tiny_model(n_layers=12), [[5, 17, 3]], [1, 3, 4, 10], seeds=())
    assert plans["unified as published, 3"].skipped == {8, 9, 10}
    assert plans["unified as published, 4"].skipped == {7, 8, 9, 10}
    even = {skip: sorted(plans[f"evenly spaced, {skip}"].skipped) for skip in (1, 3, 4, 10)}
    assert even == {1: [6], 3: [2, 6, 9], 4: [2, 4, 7, 9], 10: list(range(1, 11))}


def test_pairs_change_their_order_after_one_that_does_not_count(
    tiny_with_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def timed(adapter: Any, within: Any, prompt: list[int], steps: int) -> float:
        with within:
            order.append("full" if execution_of(adapter.model) is None else "plan")
        # The warm-up pair is the slow one.
        return (1000.0 if len(order) <= 2 else 1.0) * (2.0 if order[-1] == "full" else 1.0)

    monkeypatch.setattr("lacscope.model_measures._tradeoff._decode_seconds", timed)
    found = plan_tradeoff(tiny_with_tokenizer, QUESTIONS, {"deepest, 1": Plan.skip(4, [3])}, rounds=3)
    assert order[2:] == ["full", "plan", "plan", "full", "full", "plan"]
    assert sorted(order[:2]) == ["full", "plan"]
    assert found["decode_ratio"].values.tolist() == [[0.5, 0.5, 0.5]]


def test_nothing_to_compare_is_refused(tiny_with_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="at least one plan and one question; got 0 and 3"):
        plan_tradeoff(tiny_with_tokenizer, QUESTIONS, {})


def test_the_figure_has_a_look_for_each_method(tiny_with_tokenizer: Any) -> None:
    found = plan_tradeoff(tiny_with_tokenizer, QUESTIONS, PLANS, decode_steps=1, rounds=2, data="toy")
    with style():
        left, right = plot_plan_tradeoff(found)
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        "always the same answer",
        "full",
        "deepest",
    ]
    assert left.get_xlim()[0] > left.get_xlim()[1], "less time to the right"
    assert right.get_ylabel().endswith("(nats)")
    small_print = " ".join(text.get_text() for text in left.texts).replace("\n", " ")
    assert "skipped in prefill and decode; time of decode alone" in small_print
