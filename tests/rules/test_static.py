"""Rules that are a set of layers: contiguous block, unified skipping, the least important."""

import re
from typing import Any

import pytest
import torch
import xarray as xr
from asking import ask
from helpers import PROMPTS, bridge_of, shared_model, without_layers

from lacscope import halting, halting_hooks, trace
from lacscope.rules import ContiguousBlock, FixedLayers, Scope, StaticRule, TopImportance, UnifiedSkipping

IDS = torch.tensor([PROMPTS[0]])


def layers_of_mask(rule: Any, n_layers: int, prompt: int = 0) -> list[int]:
    """The layers that are void for the last of three tokens."""
    return ask(rule, torch.ones(n_layers + 1, 1, 3, 2), prompt=prompt)[:, 0, -1].nonzero().flatten().tolist()


# --- contiguous block ----------------------------------------------------------------------------------


def test_a_contiguous_block() -> None:
    assert layers_of_mask(ContiguousBlock(2, 3), 8) == [2, 3, 4]
    assert layers_of_mask(ContiguousBlock(-3, 2), 8) == [5, 6]
    assert layers_of_mask(ContiguousBlock(0, 4, scope=Scope(protect=[0])), 4) == [1, 2, 3]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (ContiguousBlock(3, 2), "ends at layer 4; the model has layers 0 to 3. From there n is at most 1."),
        (ContiguousBlock(4, 1), "ContiguousBlock start=[4]: the model has layers 0 to 3 (or -1 to -4)."),
    ],
)
def test_a_block_that_does_not_fit(rule: ContiguousBlock, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        rule.resolve(4)


def test_an_empty_block_is_refused() -> None:
    with pytest.raises(ValueError, match="n must be at least 1 layer, got 0"):
        ContiguousBlock(1, 0)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_a_bypassed_block_is_a_model_without_it(architecture: str) -> None:
    model = shared_model(architecture)
    hooks = halting_hooks(model, ContiguousBlock(1, 2), "bypass")
    expected = without_layers(architecture, {1, 2})(IDS).logits
    assert (model.run_with_hooks(IDS, fwd_hooks=hooks) - expected).abs().max() < 1e-4


# --- unified skipping ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_layers", "speedup", "kept"),
    [
        (32, 5, (0, 6, 12, 18, 24, 31)),  # published
        (32, 2, (*range(0, 30, 2), 31)),
        (32, 16, (0, 31)),
        (12, 3, (0, 4, 8, 11)),
        (30, 4, (0, 5, 10, 15, 20, 25, 29)),
        (5, 1, (0, 1, 2, 3, 4)),
        (10, 1.3, (0, 1, 2, 3, 4, 5, 9)),  # not balanced: the step is 1
    ],
)
def test_unified_skipping_keeps_the_published_layers(n_layers: int, speedup: float, kept: tuple[int, ...]) -> None:
    rule = UnifiedSkipping(speedup)
    assert rule.kept(n_layers) == kept
    assert len(kept) == int(n_layers / speedup)
    assert layers_of_mask(rule, n_layers, prompt=2) == sorted(set(range(n_layers)) - set(kept))
    assert layers_of_mask(rule, n_layers, prompt=3) == []


def test_unified_skipping_skips_in_decode_alone() -> None:
    found = trace(shared_model("llama"), PROMPTS[:2], rule=UnifiedSkipping(2), effect="bypass", max_new_tokens=3)
    decode = (found.phase == "decode") & found.valid
    assert ((found.void == 1) == (decode & found.layer.isin([1, 2]))).all()


def test_a_speedup_that_keeps_too_few() -> None:
    text = (
        "speedup=17 keeps int(32 / 17) = 1 of 32 layers; the first and the last are always kept, so it must be at most"
    )
    with pytest.raises(ValueError, match=re.escape(f"{text} 16.")):
        UnifiedSkipping(17).kept(32)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("speedup", [0.9, 0, float("nan"), float("inf"), True])
def test_a_speedup_that_is_none(speedup: Any) -> None:
    with pytest.raises(ValueError, match="speedup must be a finite number >= 1"):
        UnifiedSkipping(speedup)


# --- importance ----------------------------------------------------------------------------------------


def test_the_least_important_layers_are_void_and_of_equals_the_deeper() -> None:
    scores = [0.5, 0.1, 0.3, 0.1, 0.3, 0.9]
    chosen = [layers_of_mask(TopImportance(scores, skip), 6) for skip in range(6)]
    assert chosen == [[], [3], [1, 3], [1, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3, 4]]


def test_protected_layers_do_not_lower_the_budget() -> None:
    scores = xr.DataArray([0.0, 5.0, 4.0, 1.0], dims="layer")
    assert layers_of_mask(TopImportance(scores, 2, scope=Scope(protect=[0, -1])), 4) == [1, 2]


@pytest.mark.parametrize(
    ("scores", "skip", "text"),
    [
        ([1.0, float("nan")], 1, "scores must be one finite number per layer, got (1.0, nan)."),
        ([], 0, "scores must be one finite number per layer, got []."),
        ([1.0, 2.0], 3, "skip must be 0 to 2, the layers that are not protected; got 3."),
        ([1.0, 2.0], -1, "skip must be 0 to 2"),
    ],
)
def test_scores_that_rank_nothing(scores: list[float], skip: int, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        TopImportance(scores, skip)


def test_scores_of_another_model() -> None:
    with pytest.raises(ValueError, match="there are scores of 3 layers, the model has 4"):
        layers_of_mask(TopImportance([1.0, 2.0, 3.0], 1), 4)


def test_a_layer_that_writes_nothing_can_go() -> None:
    """Its output weights are zero: the logits without it are the logits with it."""
    from lacscope.testing import tiny_transformers_model

    hf_model = tiny_transformers_model("llama")
    with torch.no_grad():
        hf_model.model.layers[2].self_attn.o_proj.weight.zero_()
        hf_model.model.layers[2].mlp.down_proj.weight.zero_()
        expected = hf_model(IDS).logits
    model = bridge_of(hf_model)
    with halting(model, TopImportance([1.0, 1.0, 0.0, 1.0], 1), "bypass"):
        assert torch.equal(model(IDS), expected)


def test_static_rules_can_be_resolved_without_a_model() -> None:
    for rule in (FixedLayers([1]), ContiguousBlock(1, 1), TopImportance([2.0, 1.0, 3.0], 1)):
        assert isinstance(rule, StaticRule)
        assert (rule.resolve(3), rule.decides, rule.grain) == ({1}, "before", "static")
