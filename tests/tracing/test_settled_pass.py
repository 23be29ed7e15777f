"""A pass that is settled after it gives, bit for bit, what deciding layer by layer gives."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import PROMPTS, rows_of, shared_model

from lacscope import FixedLayers, L2AdaptiveComputation, NonFiniteStreamError, trace
from lacscope.rules import CALM, RandomTokens, Scope
from lacscope.testing import tiny_model
from lacscope.tracing._settled_pass import SettledPass

pytestmark = pytest.mark.once
NAMES = ("resid_pre_norm", "resid_post_norm", "delta_norm", "update_norm", "cos_pre_post", "void")
RULES = {
    "none": None,
    "lac": L2AdaptiveComputation(0.6),
    "alphas": [L2AdaptiveComputation(alpha) for alpha in (0.0, 0.3, 0.8, 2.0)],
    "scoped": L2AdaptiveComputation(0.6, scope=Scope(phase="decode", protect=(0,))),
    "fixed": FixedLayers([1]),
    "random": RandomTokens(0.4, seed=0),
    "calm": CALM(0.1, confidence="cosine", scope=Scope()),
}
EQUAL_LENGTHS = [prompt[:3] for prompt in PROMPTS if len(prompt) >= 3]


def traced(model: Any, prompts: Any, rule: Any, effect: str) -> Any:
    return trace(model, prompts, rule=rule, effect=effect, max_new_tokens=5, measures=["cos_pre_post"])


@pytest.mark.parametrize("prompts", [PROMPTS, EQUAL_LENGTHS], ids=["padded", "of one length"])
@pytest.mark.parametrize("effect", ["observe", "readout", "bypass"])
@pytest.mark.parametrize("rule", RULES)
def test_settled_after_the_pass_or_decided_inside_it(
    rule: str, effect: str, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if rule == "none" and effect != "observe":
        pytest.skip("an effect needs a rule")
    model = shared_model("llama", "residual")
    settled = traced(model, prompts, RULES[rule], effect)
    monkeypatch.setattr("lacscope.tracing._session.settled_pass", lambda *given, **options: None)
    inside = traced(model, prompts, RULES[rule], effect)
    for several in range(len(RULES["alphas"]) if rule == "alphas" else 1):
        a, b = (one.isel(rule=several) if rule == "alphas" else one for one in (settled, inside))
        for sample in range(len(prompts)):
            one, other = rows_of(a, sample), rows_of(b, sample)
            assert one.next_token_id.equals(other.next_token_id)
            for name in NAMES:
                if name in other:
                    np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)


def test_what_is_not_finite_is_found_in_steps_that_were_not_looked_at() -> None:
    model = tiny_model("llama", hooks="residual")
    assert trace(model, [PROMPTS[0]]).attrs["ran_on"] == "the wrapped model alone"
    first = int(trace(model, [PROMPTS[0]], max_new_tokens=3).next_token_id.values[0, -3])
    assert first not in PROMPTS[0]
    with torch.no_grad():
        model.original_model.get_input_embeddings().weight[first] = torch.inf
    with pytest.raises(
        NonFiniteStreamError, match=rf"entering layer 0 .* sample 7, token {len(PROMPTS[0])} \(id {first}"
    ):
        trace(model, [PROMPTS[0]], max_new_tokens=3, sample_ids=[7])


def test_streams_are_let_go_of_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of a step has layers x batch numbers, and no d_model."""
    model = tiny_model("llama", hooks="residual")
    n_steps = 0
    record = SettledPass.record

    def looked_at(self: Any, *args: Any) -> Any:
        nonlocal n_steps
        n_steps += 1
        found = record(self, *args)
        assert not any(isinstance(kept, torch.Tensor) and kept.ndim > 3 for kept in vars(self).values())
        assert not any(vars(self).get(name) for name in ("streams", "candidates", "ends", "_before"))
        n_positions = found.tokens.numel()
        for kept in (found.tokens, found.mask, *found.layerwise.values()):
            assert kept.untyped_storage().nbytes() <= 8 * 5 * n_positions  # five norms a token at most, or an id
        return found

    monkeypatch.setattr(SettledPass, "record", looked_at)
    for effect in ("observe", "readout", "bypass"):
        trace(model, PROMPTS, rule=L2AdaptiveComputation(0.5), effect=effect, max_new_tokens=6)
    assert n_steps >= 15
