"""The table of rules and effects: each pair runs or is refused for the reason given, and the docs say the same."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asking import ask
from helpers import PROMPTS, shared_model

import lacscope.rules
from lacscope import trace
from lacscope.rules import (
    EFFECTS,
    SHIPPED,
    HaltingRule,
    Scope,
    check_effect,
    grain_of,
    needs_of,
    rule_effects,
    rules_table,
)

DOCS = Path(__file__).parents[2] / "docs" / "rules.md"
PAIRS = [(rule, unit, effect) for rule in SHIPPED for unit in rule.units for effect in EFFECTS]
NAMES = [f"{rule.name}-{unit}-{effect}" for rule, unit, effect in PAIRS]


@pytest.mark.parametrize(("shipped", "unit", "effect"), PAIRS, ids=NAMES)
def test_each_pair_runs_or_is_refused_for_its_reason(shipped: Any, unit: Any, effect: Any) -> None:
    rule, reason = shipped.example(unit), rule_effects()[shipped.name, unit][effect]
    assert rule.unit == unit
    options = {"rule": rule, "effect": effect, "max_new_tokens": 6, "seed": 0}
    if reason is not None:
        with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
            trace(shared_model("llama"), [PROMPTS[0]], **options)
        return
    found = trace(shared_model("llama"), [PROMPTS[0]], **options).isel(sample=0)
    # On the bridge, where sublayers are measured: the wrapped model alone computes attention in another order.
    on_bridge = {"measures": ["attn_out_norm"]} if unit != "block" else {}
    full = trace(shared_model("llama"), [PROMPTS[0]], max_new_tokens=6, **on_bridge).isel(sample=0)
    void = found.void if unit != "sublayers" else (found.attn_void + found.mlp_void) > 0
    assert void.any()
    assert not void.all()
    if effect == "observe":
        np.testing.assert_array_equal(found.resid_post_norm, full.resid_post_norm)
    elif effect == "bypass":
        voids = void.values == 1 if unit in ("block", "sublayers") else found.void.values == 1
        if unit == "block":
            assert (found.resid_post_norm.values == found.resid_pre_norm.values)[voids].all()
        assert not np.array_equal(found.resid_post_norm, full.resid_post_norm[:, : found.sizes["token"]])


def test_readout_is_refused_for_sublayers_and_nothing_else_is() -> None:
    for (name, unit), reasons in rule_effects().items():
        assert {effect for effect, reason in reasons.items() if reason} == (
            set() if unit == "block" else {"readout"}
        ), name
    assert "not defined for unit='sublayers'. Use a rule on blocks" in str(
        rule_effects()["SWIFT", "sublayers"]["readout"]
    )


def test_every_shipped_rule_is_in_the_table() -> None:
    public = {
        name
        for name, value in vars(lacscope.rules).items()
        if isinstance(value, type) and name not in ("HaltingRule", "StaticRule") and hasattr(value, "voids")
    } - {"RuleInPass"}
    assert public == {rule.name for rule in SHIPPED}


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda shipped: shipped.name)
def test_a_rule_keeps_to_its_grain(shipped: Any) -> None:
    """A static mask is the same for all tokens in its scope; every rule takes a scope and says what it needs."""
    rule: HaltingRule = shipped.example(shipped.units[0])
    check_effect(rule, "bypass")
    assert isinstance(rule.scope, Scope)  # type: ignore[attr-defined]
    if grain_of(rule) == "static":
        void = ask(rule, torch.rand(5, 2, 3, 4), prompt=0)
        assert (void == void[:, :1, :1]).all()
    assert needs_of(rule) >= rule.needs


# --- the page ------------------------------------------------------------------------------------------


def test_the_page_holds_the_table() -> None:
    assert rules_table() in DOCS.read_text()


def test_what_depends_on_an_option_is_in_the_table() -> None:
    (calm,) = [line for line in rules_table().splitlines() if line.startswith("| `CALM`")]
    assert '| no (`confidence="cosine"`: yes) | head, phase (`confidence="cosine"`: phase) |' in calm


def test_the_page_tells_of_every_rule() -> None:
    text = DOCS.read_text()
    assert [rule.name for rule in SHIPPED if f"**{rule.name}**" not in text] == []


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("code", examples())
def test_the_pages_examples_run(code: str) -> None:
    names: dict[str, Any] = {"model": shared_model("llama"), "prompts": PROMPTS}
    exec(code, names)
    assert names["found"]["void"].any()


def test_the_page_shows_a_users_rule_in_under_ten_lines() -> None:
    body = examples()[0].split("class ")[1].split("\n\nfound")[0]
    assert len(body.strip().splitlines()) < 10
