"""PromptDecided: what the prompt used fixes what decode skips."""

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from asking import ask, streams_of
from helpers import PROMPTS, assert_same_trace, rows_of, shared_model

from lacscope import FixedLayers, L2AdaptiveComputation, halting, layer_usage, trace
from lacscope.rules import CosineThreshold, GivenVoids, PromptDecided, Scope, UnifiedSkipping, describe_rule

LAC = L2AdaptiveComputation(0.9)
# Norms of two prompts of four tokens: with alpha 0 a layer is void where the norm falls.
FALLS = torch.tensor(
    [
        [[1, 1, 1, 1], [1, 1, 1, 1]],
        [[2, 2, 2, 2], [0, 0, 0, 0]],  # layer 0: used by all; by none
        [[1, 3, 3, 3], [1, 0, 0, 1]],  # layer 1: 3 of 4; 4 of 4 (a norm that stays does not fall)
        [[2, 2, 2, 2], [2, 2, 1, 0]],  # layer 2: 1 of 4; 3 of 4
        [[1, 1, 1, 3], [3, 3, 0, 1]],  # layer 3: 1 of 4; 3 of 4
    ]
)


def decode_voids(rule: PromptDecided, pads: bool = False) -> list[list[int]]:
    """The void layers of the token after the prompt, for each of the two rows."""
    state: dict[str, Any] = {}
    given: dict[str, Any] = {"position": torch.tensor([[0, 1, 2, 3], [-1, 0, 1, 2]])} if pads else {}
    assert not ask(rule, streams_of(FALLS), state, prompt=99, **given).any()
    void = ask(rule, torch.ones(5, 2, 1, 2), state, position=torch.tensor([[4], [4]]), prompt=4)
    return [void[:, row, 0].nonzero().flatten().tolist() for row in range(2)]


def rule_of(**options: Any) -> PromptDecided:
    return PromptDecided(inner=L2AdaptiveComputation(0.0), **options)


def test_the_least_used_layers_by_hand() -> None:
    # Usage 1, 3/4, 1/4, 1/4 and 0, 1, 3/4, 3/4: of equals the deeper goes first.
    assert decode_voids(rule_of(skip=1)) == [[3], [0]]
    assert decode_voids(rule_of(skip=2)) == [[2, 3], [0, 3]]
    assert decode_voids(rule_of(skip=0)) == [[], []]
    assert decode_voids(rule_of(skip=2, scope=Scope(phase="decode", protect=[0, -1]))) == [[1, 2], [1, 2]]


def test_the_layers_below_a_usage_by_hand() -> None:
    assert decode_voids(rule_of(min_usage=0.75)) == [[2, 3], [0]]
    assert decode_voids(rule_of(min_usage=0.76)) == [[1, 2, 3], [0, 2, 3]]
    assert decode_voids(rule_of(min_usage=0.0)) == [[], []]
    assert decode_voids(rule_of(min_usage=1.0, scope=Scope(phase="decode", protect=[1]))) == [[2, 3], [0, 2, 3]]


def test_pads_do_not_count() -> None:
    # Row 1 without its first token: usage 0, 1, 2/3, 2/3.
    assert decode_voids(rule_of(min_usage=0.7), pads=True)[1] == [0, 2, 3]


@pytest.mark.parametrize("effect", ["readout", "bypass"])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_each_sequence_decodes_as_under_the_layers_that_its_prompt_used_least(architecture: str, effect: Any) -> None:
    model = shared_model(architecture)
    options = {"effect": effect, "max_new_tokens": 5}
    batch = trace(model, PROMPTS, rule=PromptDecided(skip=2, inner=LAC), **options)
    assert not batch.void.where(batch.phase == "prefill", False).any()
    usage = trace(model, PROMPTS, rule=LAC).void
    for sample, prompt in enumerate(PROMPTS):
        counts = (usage.values[sample][:, : len(prompt)] == 0).sum(axis=1)
        chosen = sorted(range(4), key=lambda layer, counts=counts: (counts[layer], -layer))[:2]
        fixed = FixedLayers(chosen, scope=Scope(phase="decode"))
        alone = trace(model, [prompt], rule=fixed, **options)
        assert_same_trace(rows_of(batch, sample), rows_of(alone, 0))


def test_usage_is_that_of_layer_usage() -> None:
    model = shared_model("llama")
    usage = layer_usage(trace(model, [PROMPTS[0]], rule=LAC), by="phase").sel(phase="prefill").values
    threshold = float(np.median(usage)) + 1e-6
    rule = PromptDecided(min_usage=threshold, inner=LAC)
    found = trace(model, [PROMPTS[0]], rule=rule, effect="bypass", max_new_tokens=3).isel(sample=0)
    np.testing.assert_array_equal(found.void.values[:, -1], usage < threshold)


def test_a_prompt_may_be_read_in_parts() -> None:
    state: dict[str, Any] = {}
    rule, streams = rule_of(skip=2), streams_of(FALLS)
    for part in (slice(0, 3), slice(3, 4)):
        position = torch.arange(4)[part].expand(2, -1)
        assert not ask(rule, streams[:, :, part], state, position=position, prompt=4).any()
    void = ask(rule, torch.ones(5, 2, 1, 2), state, position=torch.tensor([[4], [4]]), prompt=4)
    assert [void[:, row, 0].nonzero().flatten().tolist() for row in range(2)] == [[2, 3], [0, 3]]


def test_the_inner_rule_keeps_its_own_scope() -> None:
    rule = PromptDecided(min_usage=1.0, inner=L2AdaptiveComputation(0.0, scope=Scope(positions=(0, 1))))
    # Of the first tokens alone: layers 1 and 3 fall in the first row, layer 0 in the second.
    assert decode_voids(rule) == [[1, 3], [0]]


def test_a_prompt_and_its_answer_in_one_pass_are_refused() -> None:
    model, rule = shared_model("llama"), PromptDecided(skip=1)
    with pytest.raises(
        ValueError, match="a prompt and its answer in one pass: what the prompt used is known only once"
    ):
        trace(model, [PROMPTS[0]], rule=rule, effect="bypass", responses=[[5, 6]])
    with (
        pytest.raises(ValueError, match="decodes in a run whose prompt it has not seen"),
        halting(model, rule, "bypass", prompt_lengths=[0]),
    ):
        model(torch.tensor([[5, 6]]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "give one of skip= and min_usage=, got skip=None and min_usage=None."),
        ({"skip": 1, "min_usage": 0.5}, "give one of skip= and min_usage=, got skip=1 and min_usage=0.5."),
        ({"skip": -1}, "skip must be 0 or more, got -1."),
        ({"min_usage": 1.5}, "min_usage is a share of the prompt's tokens, 0 to 1; got 1.5."),
        ({"skip": 1, "scope": Scope()}, "scope must have phase='decode'"),
        ({"skip": 1, "inner": UnifiedSkipping(2)}, "inner measures what the prompt uses, and UnifiedSkipping("),
    ],
)
def test_options_that_are_none(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        PromptDecided(**options)


def test_more_layers_than_there_are() -> None:
    with pytest.raises(ValueError, match="skip=5 of 4 layers: those that run and scope does not protect"):
        decode_voids(rule_of(skip=5))


def test_it_takes_over_what_its_inner_rule_says() -> None:
    inner = GivenVoids({0: np.zeros((1, 1), bool)}, "mlp")
    rule = PromptDecided(skip=1, inner=inner)
    assert (rule.unit, rule.needs, rule.history) == ("mlp", {"sample", "position", "phase", "valid"}, False)
    assert PromptDecided(skip=1).history
    assert json.loads(describe_rule(PromptDecided(skip=1, inner=CosineThreshold(0.9)))) == {
        "name": "PromptDecided",
        "skip": 1,
        "min_usage": None,
        "inner": {"name": "CosineThreshold", "threshold": 0.9, "unit": "block"},
        "scope": {"phase": "decode"},
    }
