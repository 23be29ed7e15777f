"""SWIFT: two sets of sublayers at once."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PROMPTS, shared_model

from lacscope import L2AdaptiveComputation, halting, halting_hooks, trace
from lacscope.rules import SWIFT, FixedLayers, HaltingRule, Scope

IDS = torch.tensor([PROMPTS[0]])
EVERYWHERE = Scope()


def zero(activation: torch.Tensor, hook: Any) -> torch.Tensor:
    return torch.zeros_like(activation)


# --- two sublayers at once -----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gemma2"])
def test_both_sets_are_zeroed(architecture: str) -> None:
    model = shared_model(architecture)
    rule = SWIFT(attn=[1], mlp=[1, 2], scope=EVERYWHERE)
    names = ["blocks.1.hook_attn_out", "blocks.1.hook_mlp_out", "blocks.2.hook_mlp_out"]
    expected = model.run_with_hooks(IDS, fwd_hooks=[(name, zero) for name in names])
    with halting(model, rule, "bypass") as recorder:
        assert torch.equal(model(IDS), expected)
    found = recorder.trace.isel(sample=0)
    assert found.attn_void.values[:, 0].tolist() == [0, 1, 0, 0]
    assert found.mlp_void.values[:, 0].tolist() == [0, 1, 1, 0]
    assert found.void.values[:, 0].tolist() == [False, True, False, False]
    assert torch.equal(model.run_with_hooks(IDS, fwd_hooks=halting_hooks(model, rule, "bypass")), expected)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_both_sublayers_void_is_the_block_void(architecture: str) -> None:
    model = shared_model(architecture)
    with halting(model, FixedLayers([1, 2], "sublayers"), "bypass"):
        apart = model(IDS)
    with halting(model, FixedLayers([1, 2]), "bypass"):
        torch.testing.assert_close(apart, model(IDS), rtol=1e-4, atol=1e-4)


def test_a_rule_on_both_has_a_history_for_each() -> None:
    """Observed, it decides on attention as the rule on attention alone does, and so on MLP."""
    model = shared_model("llama")
    both = trace(model, PROMPTS, rule=L2AdaptiveComputation(0.9, "sublayers"))
    for unit in ("attn", "mlp"):
        alone = trace(model, PROMPTS, rule=L2AdaptiveComputation(0.9, unit))
        assert (both[f"{unit}_void"].fillna(0) == alone.void.fillna(0)).all()
        assert (alone.void == 1).any()
    assert ((both.void == 1) == (both.attn_void == 1) & (both.mlp_void == 1)).all()


def test_published_swift_skips_in_decode_alone() -> None:
    found = trace(shared_model("llama"), PROMPTS, rule=SWIFT(attn=[1], mlp=[2]), effect="bypass", max_new_tokens=4)
    decode = (found.phase == "decode") & found.valid
    assert (found.attn_void.fillna(0) == (decode & (found.layer == 1))).all()
    assert (found.mlp_void.fillna(0) == (decode & (found.layer == 2))).all()


def test_cached_decode_equals_reading_the_answer_again() -> None:
    model, rule = shared_model("gpt_neox"), SWIFT(attn=[1, 2], mlp=[2])
    found = trace(model, [PROMPTS[0]], rule=rule, effect="bypass", max_new_tokens=6).isel(sample=0)
    with halting(model, rule, "bypass", prompt_lengths=[len(PROMPTS[0])]) as recorder:
        model(torch.tensor([found.token_id.values.tolist()]))
    np.testing.assert_allclose(found.resid_post_norm, recorder.trace.resid_post_norm[0], rtol=1e-4)


def test_two_rules_on_sublayers_are_observed_apart() -> None:
    rules: list[HaltingRule] = [L2AdaptiveComputation(a, "sublayers") for a in (0.5, 0.9)]
    with pytest.raises(ValueError, match="two masks each, of attention and of MLP: observe them one at a time"):
        trace(shared_model("llama"), PROMPTS, rule=rules)
    assert trace(shared_model("llama"), PROMPTS, rule=rules, effect="bypass").sizes["rule"] == 2


# --- the sets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (SWIFT(), "has no sets yet: rule = rule.fit(model, data), or give attn= and mlp=."),
        (SWIFT(attn=[0], mlp=[]), "SWIFT keeps the first and the last layer, 0 and 3."),
        (SWIFT(attn=[], mlp=[-1]), "SWIFT keeps the first and the last layer, 0 and 3."),
        (SWIFT(attn=[9], mlp=[]), "SWIFT[9]: the model has layers 0 to 3 (or -1 to -4)."),
    ],
)
def test_sets_that_cannot_be(rule: SWIFT, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        rule.sets(4)


def test_one_set_without_the_other() -> None:
    with pytest.raises(ValueError, match=re.escape("give attn= and mlp= together")):
        SWIFT(attn=[1])
    with pytest.raises(ValueError, match="skip_ratio is a share of the sublayers, 0 to 1; got 45"):
        SWIFT(45.0)
