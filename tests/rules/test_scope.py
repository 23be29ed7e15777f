"""Scope and latch: options of the protocol that the pass applies to any rule's mask."""

import json
import re
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from asking import ask, streams_of
from helpers import PROMPTS, assert_same_trace, rows_of, shared_model
from hypothesis import given, settings
from hypothesis import strategies as st

from lacscope import halting, trace
from lacscope.rules import (
    EVERYWHERE,
    FixedLayers,
    GivenVoids,
    L2AdaptiveComputation,
    Scope,
    check_effect,
    describe_rule,
    grain_of,
    has_history,
    latches,
    needs_of,
    scope_of,
)

SCOPES = (
    Scope(phase="decode"),
    Scope(phase="prefill"),
    Scope(positions=(1, 3)),
    Scope(positions=(2, None)),
    Scope(protect=(0, -1)),
    Scope(phase="decode", positions=(0, 4), protect=[1]),
)


class Mask:
    """A rule that answers with a mask [layer, token] given to it."""

    decides, unit, needs = "before", "block", frozenset()

    def __init__(self, mask: list[list[int]], latches: bool = False, scope: Scope = EVERYWHERE) -> None:
        self.mask, self.latches, self.scope = torch.tensor(mask).bool(), latches, scope

    def voids(self, view: Any, pass_state: dict[str, Any], run_state: dict[str, Any]) -> torch.Tensor:
        return self.mask[view.layer].expand(view.shape)


def voids_of(rule: Any, prompt: int = 0) -> list[list[int]]:
    """What the pass makes of a Mask, one row: [layer, token]."""
    n_layers, n_tokens = rule.mask.shape
    return ask(rule, torch.ones(n_layers + 1, 1, n_tokens, 2), prompt=prompt)[:, 0].int().tolist()


# --- scope ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (Scope(), [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]),
        (Scope(phase="prefill"), [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]),
        (Scope(phase="decode"), [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]]),
        (Scope(positions=(1, 3)), [[0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]]),
        (Scope(positions=(2, None)), [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]),
        (Scope(protect=[-1, 0]), [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]),
        (Scope(phase="prefill", positions=(0, 2), protect=[1]), [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]),
    ],
)
def test_outside_the_scope_nothing_is_void(scope: Scope, expected: list[list[int]]) -> None:
    assert voids_of(Mask([[1] * 4] * 3, scope=scope), prompt=3) == expected


@settings(deadline=None)  # a busy machine
@given(
    hnp.arrays(np.float32, (6, 1, 5), elements=st.floats(0, 300, width=32)),
    st.sampled_from(SCOPES),
    st.floats(0, 2),
)
def test_a_scope_takes_voids_away_and_changes_none_inside(norms: np.ndarray, scope: Scope, alpha: float) -> None:
    streams = streams_of(torch.from_numpy(norms))
    whole = ask(L2AdaptiveComputation(alpha), streams, prompt=2)
    scoped = ask(L2AdaptiveComputation(alpha, scope=scope), streams, prompt=2)
    inside = ask(FixedLayers(range(5), scope=scope), streams, prompt=2)
    assert torch.equal(scoped, whole & inside)


def test_what_a_scope_needs_and_says() -> None:
    assert Scope().needs == frozenset()
    assert Scope(phase="decode", positions=(0, 3)).needs == {"phase", "position"}
    assert needs_of(GivenVoids({0: np.zeros((1, 1), bool)}, scope=Scope(phase="decode"))) == {
        "phase",
        "position",
        "sample",
    }
    assert Scope(protect=[3, np.int64(-1), 3]).protect == (-1, 3)
    assert Scope(protect=[-1, 0]).open_layers(4) == [1, 2]
    assert Scope(phase="decode", protect=[0]).describe() == {"phase": "decode", "protect": [0]}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"phase": "generation"}, "phase must be 'prefill', 'decode' or None (both), got 'generation'."),
        ({"positions": (3, 3)}, "positions must be (start, stop) with 0 <= start < stop"),
        ({"positions": (-1, 2)}, "got (-1, 2)."),
        ({"positions": 5}, "stop None for no end; got 5."),
        ({"positions": (0.0, 2)}, "got (0.0, 2)."),
        ({"protect": 0}, "protect must be a list of block indices, got 0."),
        ({"protect": [True]}, "protect must be block indices (int), got True."),
    ],
)
def test_a_scope_that_is_none(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Scope(**options)


def test_a_protected_layer_that_the_model_has_not() -> None:
    with pytest.raises(ValueError, match=re.escape("protect=[7]: the model has layers 0 to 2 (or -1 to -3).")):
        voids_of(Mask([[1]] * 3, scope=Scope(protect=[0, 7])))


# --- latch ---------------------------------------------------------------------------------------------


def test_a_latch_makes_all_later_layers_void() -> None:
    mask = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert voids_of(Mask(mask)) == mask
    assert voids_of(Mask(mask, latches=True)) == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0]]


@settings(deadline=None)  # a busy machine
@given(hnp.arrays(bool, (5, 4)), st.sampled_from(SCOPES))
def test_a_latch_is_monotone_inside_the_scope(mask: np.ndarray, scope: Scope) -> None:
    latched = np.array(voids_of(Mask(mask.tolist(), True, scope), prompt=2))
    plain = np.array(voids_of(Mask(mask.tolist(), False, scope), prompt=2))
    inside = np.array(voids_of(Mask(np.ones((5, 4)).tolist(), False, scope), prompt=2))
    first = np.maximum.accumulate(plain, axis=0)
    assert (latched == first * inside).all()


def test_a_protected_layer_stays_active_and_a_void_there_does_not_latch() -> None:
    scope = Scope(protect=[0, -1])
    assert voids_of(Mask([[1], [0], [0], [1]], True, scope)) == [[0], [0], [0], [0]]
    assert voids_of(Mask([[0], [1], [0], [0]], True, scope)) == [[0], [1], [1], [0]]


# --- the protocol --------------------------------------------------------------------------------------


def test_a_rule_under_the_old_protocol_has_defaults() -> None:
    class Old:
        decides, unit, needs = "after", "block", frozenset()

        def voids(self, view: Any, pass_state: Any, run_state: Any) -> torch.Tensor:
            return torch.zeros(view.shape, dtype=torch.bool)

    rule = Old()
    check_effect(rule, "bypass")
    assert (grain_of(rule), latches(rule), has_history(rule), scope_of(rule)) == ("token", False, False, EVERYWHERE)
    assert not ask(rule, torch.ones(3, 1, 2, 2)).any()


@pytest.mark.parametrize(
    ("member", "value", "error", "text"),
    [
        ("grain", "batch", ValueError, "has grain 'batch'; a rule's grain is 'static', 'sequence' or 'token'."),
        ("scope", "decode", TypeError, "has scope 'decode'; a rule's scope is a lacscope.rules.Scope."),
    ],
)
def test_an_optional_member_that_is_none(member: str, value: str, error: type[Exception], text: str) -> None:
    rule = Mask([[1]])
    setattr(rule, member, value)
    with pytest.raises(error, match=re.escape(text)):
        check_effect(rule, "observe")


def test_a_rule_is_shown_what_it_needs_and_nothing_else() -> None:
    seen = []

    class Looks(Mask):
        def voids(self, view: Any, pass_state: Any, run_state: Any) -> torch.Tensor:
            seen.append(view)
            return super().voids(view, pass_state, run_state)

        def watch(self, view: Any, pass_state: Any, run_state: Any) -> None:
            seen.append(view)

    rule = Looks([[1, 0]], scope=Scope(positions=(0, 1)))
    assert voids_of(rule) == [[1, 0]]
    before, after = seen
    assert before.resid_post is None
    assert after.resid_post is not None
    assert before.position.tolist() == [[0, 1]]
    assert (before.decode, before.step, before.sample, before.valid, before.head) == (None,) * 5


def test_logits_are_had_by_rules_that_need_the_head() -> None:
    class Greedy(Mask):
        def voids(self, view: Any, pass_state: Any, run_state: Any) -> torch.Tensor:
            return view.logits(view.resid_pre) > 0

    with pytest.raises(ValueError, match="this view has no head: name 'head' in the rule's needs"):
        voids_of(Greedy([[1]]))


def test_default_rules_are_described_as_ever_and_a_scope_is_added() -> None:
    assert (
        describe_rule(L2AdaptiveComputation(0.5)) == '{"alpha": 0.5, "name": "L2AdaptiveComputation", "unit": "block"}'
    )
    assert describe_rule(FixedLayers([2, 1], "mlp")) == '{"layers": [1, 2], "name": "FixedLayers", "unit": "mlp"}'
    given = GivenVoids({0: np.array([[True]])})
    assert describe_rule(given) == json.dumps(
        {"name": "GivenVoids", "samples": 1, "sha256": given.sha256, "unit": "block"}, sort_keys=True
    )
    scope = Scope(phase="decode", protect=[0])
    for rule in (
        L2AdaptiveComputation(scope=scope),
        FixedLayers([1], scope=scope),
        GivenVoids({0: np.array([[True]])}, scope=scope),
        Mask([[1]], scope=scope),
    ):
        assert json.loads(describe_rule(rule))["scope"] == {"phase": "decode", "protect": [0]}
    assert given != GivenVoids({0: np.array([[True]])}, scope=scope)
    assert given.sha256 == GivenVoids({0: np.array([[True]])}, scope=scope).sha256


# --- in a model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", ["readout", "bypass"])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_a_decode_scope_leaves_the_prompt_to_the_full_model(architecture: str, effect: Any) -> None:
    model = shared_model(architecture)
    rule = L2AdaptiveComputation(0.9, scope=Scope(phase="decode"))
    scoped = trace(model, PROMPTS, rule=rule, effect=effect, max_new_tokens=4, logits="last")
    full = trace(model, PROMPTS, logits="last")
    decode = (scoped.phase == "decode") & scoped.valid
    assert not (scoped.void == 1).where(~decode, False).any()
    assert (scoped.void == 1).where(decode, False).any()
    np.testing.assert_array_equal(scoped.logits, full.logits)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_a_window_counts_the_samples_own_positions(architecture: str) -> None:
    model = shared_model(architecture)
    rule = FixedLayers([1, 2], scope=Scope(positions=(1, 4)))
    batch = trace(model, PROMPTS, rule=rule, effect="bypass", max_new_tokens=4)
    expected = batch.valid & (batch.token >= 1) & (batch.token < 4) & batch.layer.isin([1, 2])
    assert ((batch.void == 1) == expected).all()
    single = trace(model, PROMPTS, rule=rule, effect="bypass", max_new_tokens=4, batch_size=1)
    for sample in range(len(PROMPTS)):
        assert_same_trace(rows_of(batch, sample), rows_of(single, sample))


def test_plain_hooks_refuse_a_scope_that_they_cannot_see() -> None:
    from lacscope import halting_hooks

    model = shared_model("llama")
    with pytest.raises(ValueError, match=r"needs phase, which plain hooks cannot see"):
        halting_hooks(model, FixedLayers([1], scope=Scope(phase="decode")), "bypass")
    assert halting_hooks(model, FixedLayers([1], scope=Scope(protect=[0])), "bypass")


def test_cached_decode_equals_reading_the_answer_again() -> None:
    model, rule = shared_model("llama"), L2AdaptiveComputation(0.9, scope=Scope(phase="decode", protect=[-1]))
    generated = trace(model, [PROMPTS[0]], rule=rule, effect="bypass", max_new_tokens=6)
    answer = generated.token_id.values[0][len(PROMPTS[0]) :].tolist()
    with halting(model, rule, "bypass", prompt_lengths=[len(PROMPTS[0])]) as recorder:
        model(torch.tensor([PROMPTS[0] + answer]))
    reread = recorder.trace
    np.testing.assert_array_equal(generated.void.values, reread.void.values)
    np.testing.assert_allclose(generated.resid_post_norm, reread.resid_post_norm, rtol=1e-4)
