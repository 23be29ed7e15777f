"""Analyses in one call are what their public steps give, one after the other."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import lacscope
from lacscope import plots
from lacscope.measures import pool_tokens, variants
from lacscope.tasks import Question
from lacscope.trace_analyses import painters_curves

PROMPTS = [[5, 17, 3, 60, 8, 44, 9], [11, 4, 70, 2, 33]]
CHOICES = ("deep", "cold wood")
QUESTIONS = [
    Question(i, "", prompt, False, CHOICES, i % 2, CHOICES[i % 2])
    for i, prompt in enumerate(("the river rises in a wood", "is it deep", "the wood is", "a river is in it"))
]


def test_effective_depth_is_read_from_the_pooled_curves(tiny: Any) -> None:
    found = lacscope.effective_depth(tiny, PROMPTS, data="two", prompt_format="ids")
    cosines, lens = (pool_tokens(f(tiny, PROMPTS)) for f in (lacscope.residual_cosines, lacscope.logit_lens))
    cosine = sum(cosines[name] for name in ("cos_attn_resid", "cos_mlp_resid", "cos_update_resid")) / 3
    states = lens.isel(state=slice(4))
    by_hand = lacscope.effective_depths(cosine, states["kl"], states["overlap"])
    np.testing.assert_array_equal(found["layer"], by_hand["layer"])
    assert (found.attrs["model"], found.attrs["data"], found.attrs["n_samples"]) == ("tiny-llama", "two", 2)
    assert plots.plot(found).get_xlabel()


def test_a_depth_score_is_of_each_group_cut_at_its_answers(tiny: Any) -> None:
    pairs = {"a": [([5, 17, 3], [60, 8]), ([4, 9], [7])], "b": [([8, 44, 9], [61, 7])]}
    found = lacscope.depth_score_by_group(tiny, pairs, seed=3)
    steps = {
        "a": lacscope.future_skip_influence(tiny, [[5, 17, 3, 60, 8], [4, 9, 7]], cuts=[[3], [2]]),
        "b": lacscope.future_skip_influence(tiny, [[8, 44, 9, 61, 7]], cuts=[[3]]),
    }
    xr.testing.assert_equal(found, lacscope.depth_scores(steps, seed=3))
    with pytest.raises(ValueError, match=r"groups\['c'\] must be pairs of a prompt and its answer, at least one; got"):
        lacscope.depth_score_by_group(tiny, {"c": []})


def test_painters_are_the_curves_of_every_variants_scores(tiny_with_tokenizer: Any) -> None:
    model, asked = tiny_with_tokenizer, {"boolq": QUESTIONS}
    found = lacscope.layers_as_painters(model, asked, kinds=["skip", "random"], starts=[1], seeds=[0])
    tables = lacscope.score_variants(model, asked, variants(4, ["skip", "random"], [1], seeds=[0]))
    by_hand = painters_curves(pd.concat(tables), {"boolq": 0.5})
    xr.testing.assert_equal(found, by_hand)
    assert found.attrs["model"] == "tiny-llama"
    with pytest.raises(ValueError, match=r"mine: questions with several choices whose chance .* or give chance="):
        lacscope.layers_as_painters(model, {"mine": QUESTIONS})
    given = lacscope.layers_as_painters(model, {"mine": QUESTIONS}, kinds=["skip"], starts=[1], chance={"mine": 0.5})
    assert given["task"].values.tolist() == ["mine"]


def test_single_choices_are_scored_by_token_against_no_chance(tiny_with_tokenizer: Any) -> None:
    single = [replace(one, choices=("cold wood",), target=0) for one in QUESTIONS]
    found = lacscope.layers_as_painters(tiny_with_tokenizer, {"any": single}, kinds=["skip"], starts=[1])
    by_token = lacscope.score_choices(tiny_with_tokenizer, single)["token_accuracy"].mean()
    assert float(found["full"][0]) == pytest.approx(by_token)


@pytest.mark.parametrize("by", ["class", "position", "surprisal"])
def test_token_groups_are_those_of_the_trace(tiny_with_tokenizer: Any, by: str) -> None:
    prompts = ["the river rises in a wood", "is it deep"]
    found = lacscope.token_group_usage(tiny_with_tokenizer, prompts, by=by, alpha=0.5)
    trace = lacscope.trace(tiny_with_tokenizer, prompts, measures=("surprisal",))
    groups = getattr(lacscope, f"groups_by_{by}")(trace)
    xr.testing.assert_equal(found, lacscope.usage_by_group(trace, groups, lacscope.voids(trace, 0.5), seed=0))
    assert found.attrs["alpha"] == 0.5


def test_an_unknown_kind_of_groups_is_refused(tiny: Any, unchecked: None) -> None:
    with pytest.raises(ValueError, match="unknown by 'clas'; choose one of 'class', 'position', 'surprisal'"):
        lacscope.token_group_usage(tiny, PROMPTS, by="clas")


def test_the_tell_tale_ranks_every_choice_by_thresholds_of_other_questions(tiny_with_tokenizer: Any) -> None:
    model, (first, *others) = tiny_with_tokenizer, QUESTIONS
    found = lacscope.tell_tale_norms(model, others, calibration=[first], data="toy")

    def read(questions: list[Question]) -> xr.Dataset:
        prompts = [one.prompt for one in questions for _ in one.choices]
        return lacscope.trace(model, prompts, responses=[choice for one in questions for choice in one.choices])

    signals = lacscope.norm_signals(read(others), lacscope.norm_thresholds(read([first])))
    right = [choice == one.target for one in others for choice in range(2)]
    names = [one.sample for one in others for _ in range(2)]
    by_hand = lacscope.share_right(signals, right, names, seed=0)
    np.testing.assert_allclose(found["share"], by_hand["share"])
    assert found.attrs["positions"].endswith("thresholds from 1 other questions")
    with pytest.raises(ValueError, match=r"calibration must be questions with two choices or more; got none"):
        lacscope.tell_tale_norms(model, others, calibration=[])
    single = [replace(first, choices=("deep",), target=0)]
    with pytest.raises(ValueError, match=r"questions must be questions with two choices or more; sample 0 has fewer"):
        lacscope.tell_tale_norms(model, single, calibration=others)


def test_a_tradeoff_answers_under_the_plans_chosen_on_other_prompts(tiny_with_tokenizer: Any) -> None:
    given = {"calibration": PROMPTS, "shares": [0.25], "seeds": [0], "decode_steps": 2, "rounds": 1}
    found = lacscope.skipping_tradeoff(tiny_with_tokenizer, QUESTIONS, **given)
    plans = lacscope.skipping_plans(tiny_with_tokenizer, PROMPTS, [1], seeds=[0])
    by_hand = lacscope.plan_tradeoff(tiny_with_tokenizer, QUESTIONS, plans, decode_steps=2, rounds=1)
    assert found["plan"].values.tolist() == list(plans)
    np.testing.assert_array_equal(found["correct"], by_hand["correct"])
    with pytest.raises(ValueError, match="shares must be"):
        lacscope.skipping_tradeoff(tiny_with_tokenizer, QUESTIONS, calibration=PROMPTS, shares=[1.5])
