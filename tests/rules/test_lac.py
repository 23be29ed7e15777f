"""Halting rules: the streaming LAC rule, FixedLayers, a user's own, and what check_effect refuses."""

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import deltas, lac_voids

from lacscope.rules import (
    FixedLayers,
    HaltingRule,
    L2AdaptiveComputation,
    LayerView,
    check_effect,
    describe_rule,
)
from lacscope.traces._lac import lac_thresholds

ALPHAS = (0.0, 0.1, 0.5, 0.8, 0.9, 1.0, 1.7, 1 / 3)


@st.composite
def norms(draw: st.DrawFn) -> torch.Tensor:
    """Norms n_0..n_L of each token, [L+1, batch, pos]."""
    shape = (draw(st.integers(2, 9)), draw(st.integers(1, 2)), draw(st.integers(1, 3)))
    return torch.from_numpy(draw(hnp.arrays(np.float32, shape, elements=st.floats(0, 300, width=32))))


def decide(rule: HaltingRule, norm: torch.Tensor) -> torch.Tensor:
    """The rule's masks for streams of these norms, layer after layer: bool [layer, batch, pos]."""
    masks, pass_state, run_state = [], {}, {}
    streams = norm.unsqueeze(-1)
    for layer in range(len(norm) - 1):
        view = LayerView(layer, len(norm) - 1, streams[layer], norm[layer], streams[layer + 1], norm[layer + 1])
        masks.append(rule.voids(view, pass_state, run_state))
    return torch.stack(masks)


# --- L2 Adaptive Computation ---------------------------------------------------------------------------


@given(norms(), st.sampled_from(ALPHAS) | st.floats(0, 5))
def test_streaming_rule_equals_the_array_rule_bit_for_bit(norm: torch.Tensor, alpha: float) -> None:
    flat = norm.flatten(1).numpy()
    delta = flat[1:] - flat[:-1]
    streamed = decide(L2AdaptiveComputation(alpha), norm).flatten(1).numpy()
    np.testing.assert_array_equal(streamed, delta < lac_thresholds(delta, alpha))


@given(
    hnp.arrays(np.float32, (7, 1, 2), elements=st.integers(0, 2**12).map(lambda k: np.float32(k / 16))),
    st.sampled_from([0.0, 0.5, 0.75, 1.0]),
)
def test_streaming_rule_equals_the_plain_loops(norm: np.ndarray, alpha: float) -> None:
    expected = lac_voids(deltas(norm[:, 0].tolist()), alpha)
    assert decide(L2AdaptiveComputation(alpha), torch.from_numpy(norm))[:, 0].tolist() == expected


def test_nothing_latches() -> None:
    norm = torch.tensor([10.0, 14.0, 13.0, 20.0]).reshape(4, 1, 1)
    assert decide(L2AdaptiveComputation(0.5), norm).flatten().tolist() == [False, True, False]


def test_a_new_pass_starts_anew() -> None:
    rule, norm = L2AdaptiveComputation(1.0), torch.tensor([0.0, 50.0, 1.0, 2.0]).reshape(4, 1, 1)
    assert torch.equal(decide(rule, norm), decide(rule, norm))


def test_masks_are_bool_on_the_streams_device_whatever_its_dtype() -> None:
    stream = torch.ones(2, 3, 4, dtype=torch.bfloat16)
    norm = torch.ones(2, 3)
    view = LayerView(0, 2, stream, norm, stream, norm)
    for rule in (L2AdaptiveComputation(), FixedLayers([0])):
        void = rule.voids(view, {}, {})
        assert (void.dtype, void.shape, void.device) == (torch.bool, (2, 3), stream.device)


def test_history_follows_the_stream_to_another_device() -> None:
    # No second device here: `meta` stands for it, and refuses to meet the CPU.
    norm = torch.ones(1, 2)
    state: dict[str, Any] = {"highest": norm.clone(), "lowest": norm.clone()}
    far = norm.to("meta")
    void = L2AdaptiveComputation().voids(LayerView(1, 2, far[..., None], far, far[..., None], far), state, {})
    assert void.device.type == state["highest"].device.type == "meta"


def test_defaults_are_the_papers() -> None:
    assert L2AdaptiveComputation() == L2AdaptiveComputation(alpha=0.8, unit="block")
    assert L2AdaptiveComputation(1).alpha == 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        L2AdaptiveComputation().alpha = 0.5  # type: ignore[misc]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf"), True, "0.8"])
def test_bad_alpha(alpha: Any) -> None:
    with pytest.raises(ValueError, match=f"alpha must be .*got {alpha!r}"):
        L2AdaptiveComputation(alpha)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("make", [L2AdaptiveComputation, lambda unit: FixedLayers([0], unit)])
def test_bad_unit(make: Any) -> None:
    with pytest.raises(ValueError, match="unknown unit 'head'; choose one of 'block', 'attn', 'mlp'"):
        make(unit="head")


# --- FixedLayers ---------------------------------------------------------------------------------------


def test_fixed_layers_marks_them_for_every_token() -> None:
    void = decide(FixedLayers([0, -1]), torch.ones(5, 2, 3))
    assert void.flatten(1).all(dim=1).tolist() == [True, False, False, True]
    assert void.flatten(1).any(dim=1).tolist() == [True, False, False, True]


def test_fixed_layers_takes_any_integers() -> None:
    assert FixedLayers([3, 1, 3]).layers == (1, 3)
    assert FixedLayers(range(2)) == FixedLayers((np.int64(1), 0))
    assert FixedLayers([]).resolve(4) == frozenset()
    assert FixedLayers([-4, 3]).resolve(4) == {0, 3}


@pytest.mark.parametrize("layers", [[4], [-5], [0, 7]])
def test_fixed_layers_the_model_does_not_have(layers: list[int]) -> None:
    outside = [layer for layer in layers if layer != 0]
    text = f"FixedLayers{outside}: the model has layers 0 to 3 (or -1 to -4)."
    with pytest.raises(ValueError, match=re.escape(text)):
        decide(FixedLayers(layers), torch.ones(5, 1, 1))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (3, "layers must be a list of block indices, got 3"),
        ([True], r"layers must be block indices \(int\), got True"),
        ([1.0], r"layers must be block indices \(int\), got 1\.0"),
        ("12", r"layers must be block indices \(int\), got '1'"),
    ],
)
def test_fixed_layers_that_are_no_indices(layers: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        FixedLayers(layers)


# --- the protocol --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EveryOther:
    decides: ClassVar = "before"
    needs: ClassVar = frozenset()
    unit: str = "block"

    def voids(self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]) -> torch.Tensor:
        return torch.full(view.shape, view.layer % 2 == 1, device=view.device)


def test_a_users_rule_in_ten_lines(tiny: Any) -> None:
    from lacscope import trace

    assert isinstance(EveryOther(), HaltingRule)
    found = trace(tiny, [[5, 6, 7]], rule=EveryOther(), effect="bypass")
    assert found["void"].values[0].all(axis=1).tolist() == [False, True, False, True]
    assert (found["resid_post_norm"] == found["resid_pre_norm"]).values[0, 1::2].all()


def test_a_rule_that_answers_with_something_else_is_told_so(tiny: Any) -> None:
    from lacscope import trace

    class Wrong(EveryOther):
        def voids(self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]) -> torch.Tensor:
            return torch.zeros(view.shape)

    with pytest.raises(ValueError, match=r"must return a bool tensor of shape \(1, 3\), got torch\.float32"):
        trace(tiny, [[5, 6, 7]], rule=Wrong())


def test_check_effect_lets_through_what_is_defined() -> None:
    check_effect(None, "observe")
    for unit in ("block", "attn", "mlp"):
        check_effect(L2AdaptiveComputation(unit=unit), "bypass")
        check_effect(FixedLayers([0], unit=unit), "observe")
    check_effect(FixedLayers([0]), "readout")


def _without(name: str) -> Any:
    members = {"decides": "after", "needs": frozenset(), "unit": "block", "voids": lambda *_: None}
    return type("Partial", (), {key: value for key, value in members.items() if key != name})()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("missing", ["decides", "needs", "unit", "voids"])
def test_check_effect_refuses_what_is_no_rule(missing: str) -> None:
    with pytest.raises(TypeError, match=r"rule must have decides, needs, unit and voids.*L2AdaptiveComputation"):
        check_effect(_without(missing), "observe")


def test_check_effect_says_what_is_possible() -> None:
    with pytest.raises(ValueError, match="unknown effect 'skip'; choose one of 'observe', 'readout', 'bypass'"):
        check_effect(None, "skip")
    with pytest.raises(ValueError, match="effect='bypass' needs a halting rule"):
        check_effect(None, "bypass")
    with pytest.raises(ValueError, match=r"readout.*not defined for unit='attn'.*Use unit='block'"):
        check_effect(L2AdaptiveComputation(unit="attn"), "readout")
    needing = EveryOther()
    object.__setattr__(needing, "needs", frozenset({"phase", "weather"}))
    with pytest.raises(ValueError, match=r"needs \['weather'\]; a rule may need phase, position, valid"):
        check_effect(needing, "observe")
    object.__setattr__(needing, "needs", frozenset())
    object.__setattr__(needing, "decides", "during")
    with pytest.raises(ValueError, match="decides 'during'; a rule decides 'before' or 'after'"):
        check_effect(needing, "observe")


@pytest.mark.parametrize(
    ("rule", "described"),
    [
        (None, None),
        (L2AdaptiveComputation(0.5), {"name": "L2AdaptiveComputation", "alpha": 0.5, "unit": "block"}),
        (FixedLayers([2, 1], "mlp"), {"name": "FixedLayers", "layers": [1, 2], "unit": "mlp"}),
        (EveryOther(), {"name": "EveryOther", "unit": "block"}),
    ],
)
def test_a_rule_is_described_as_json(rule: Any, described: Any) -> None:
    assert json.loads(describe_rule(rule)) == described
