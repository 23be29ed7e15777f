"""The wrapped model alone: chosen where it gives the bridge's numbers, and left wherever somebody stands on the way."""

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PROMPTS, bridge_of, rows_of, unchanged
from torch import nn

import lacscope
from lacscope import L2AdaptiveComputation, Plan, halting, plan, trace
from lacscope.models.adapters import BareModel, UnsupportedModelError, adapt, bare_model
from lacscope.testing import ARCHITECTURES, tiny_model, tiny_transformers_model

ALONE = "the wrapped model alone"
pytestmark = pytest.mark.once
ONE = {"max_new_tokens": 3, "rule": L2AdaptiveComputation(0.6), "effect": "readout"}


def ran_on(model: Any, **options: Any) -> str:
    return str(trace(model, PROMPTS, **options).attrs["ran_on"])


@pytest.mark.parametrize("hooks", ["full", "residual"])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_it_gives_the_bridges_trace(architecture: str, hooks: str) -> None:
    model = tiny_model(architecture, hooks=hooks)
    assert ran_on(model) == ALONE  # in its first pass a bridge puts hooks of its own on some norms
    with unchanged(model):
        alone = trace(model, PROMPTS, measures=["surprisal", "cos_pre_post"], **ONE)
    assert alone.attrs["ran_on"] == ALONE
    bridged = trace(
        model,
        PROMPTS,
        measures=["surprisal", "cos_pre_post"],
        fwd_hooks=("blocks.0.hook_resid_pre", lambda stream, hook: None),
        **ONE,
    )
    assert bridged.attrs["ran_on"] == "the bridge: hooks of yours stand on it"
    for sample in range(len(PROMPTS)):
        a, b = rows_of(alone, sample), rows_of(bridged, sample)
        assert a.next_token_id.equals(b.next_token_id)
        for name in ("resid_pre_norm", "resid_post_norm", "update_norm", "surprisal", "cos_pre_post"):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_long_prompts_are_read_as_the_model_reads_them_of_its_own_accord() -> None:
    model = tiny_model("llama", hooks="full")
    assert model.original_model.config._attn_implementation == "eager"  # for attention patterns
    assert trace(model, PROMPTS).attrs["attention"] == "sdpa"
    assert trace(model, PROMPTS, measures=["attn_out_norm"]).attrs["attention"] == "eager"
    patterns: list[torch.Tensor] = []
    trace(model, PROMPTS, fwd_hooks=("blocks.0.attn.hook_pattern", lambda found, hook: patterns.append(found)))
    assert patterns
    assert trace(copy.deepcopy(model), PROMPTS).attrs["attention"] == "sdpa"


def test_an_implementation_that_was_asked_for_is_kept() -> None:
    hf_model = tiny_transformers_model("llama")
    hf_model.set_attn_implementation("eager")
    model = lacscope.load_model(hf_model)
    assert trace(model, PROMPTS).attrs["attention"] == "eager"


def test_whoever_stands_on_the_way_is_asked() -> None:
    """Each of these changes the model's numbers, and the trace has them."""
    model = tiny_model("llama", hooks="full")
    assert ran_on(model) == ALONE
    before = trace(model, PROMPTS)

    def doubled(stream: torch.Tensor, hook: Any) -> torch.Tensor:
        return stream * 2

    def doubles(module: nn.Module, given: Any, output: Any) -> Any:
        return output * 2

    inner = model.blocks[1].mlp.original_component
    ways = {
        "a hook of TransformerLens": lambda: model.add_hook("blocks.1.hook_mlp_out", doubled),
        "a hook on an inner module": lambda: inner.register_forward_hook(doubles),
        "a hook on a component of the bridge": lambda: model.blocks[1].mlp.register_forward_hook(doubles),
    }
    for what, put in ways.items():
        handle = put()
        now = trace(model, PROMPTS)
        assert now.attrs["ran_on"].startswith("the bridge: "), what
        assert not now.resid_post_norm.equals(before.resid_post_norm), what
        model.reset_hooks() if handle is None else handle.remove()
        again = trace(model, PROMPTS)
        assert again.attrs["ran_on"] == ALONE, what
        assert again.resid_post_norm.equals(before.resid_post_norm), what


def test_after_a_cache_of_everything_it_is_as_before() -> None:
    """transformers leaves hooks that collect attention patterns; they change nothing."""
    model = tiny_model("llama", hooks="full")
    before = trace(model, PROMPTS)
    model.run_with_cache(torch.tensor([PROMPTS[0]]))
    after = trace(model, PROMPTS)
    assert before.attrs["ran_on"] == after.attrs["ran_on"] == ALONE
    assert after.resid_post_norm.equals(before.resid_post_norm)


def test_weights_and_modules_put_in_anothers_place_are_seen() -> None:
    model = tiny_model("llama", hooks="residual")
    before = trace(model, PROMPTS)
    layer = model.blocks[1].original_component
    with torch.no_grad():
        layer.mlp.down_proj.weight.mul_(2)
    scaled = trace(model, PROMPTS)
    assert scaled.attrs["ran_on"] == ALONE
    assert not scaled.resid_post_norm.equals(before.resid_post_norm)
    layer.mlp.down_proj.weight = nn.Parameter(layer.mlp.down_proj.weight.detach() / 2)
    assert trace(model, PROMPTS).resid_post_norm.equals(before.resid_post_norm)
    layer.mlp = nn.Identity()
    without = trace(model, PROMPTS)
    assert without.attrs["ran_on"] == ALONE
    assert not without.resid_post_norm.equals(before.resid_post_norm)


def test_settings_of_a_module_or_of_the_config_that_are_changed_later_are_seen() -> None:
    model = tiny_model("llama", hooks="residual")
    before = trace(model, PROMPTS)
    norm = model.blocks[1].original_component.input_layernorm
    kept, norm.variance_epsilon = norm.variance_epsilon, 0.5
    changed = trace(model, PROMPTS)
    assert changed.attrs["ran_on"] == ALONE
    assert not changed.resid_post_norm.equals(before.resid_post_norm)
    norm.variance_epsilon = kept
    assert trace(model, PROMPTS).resid_post_norm.equals(before.resid_post_norm)
    first, _ = bare_model(adapt(model))
    model.original_model.config.attention_dropout = 0.5
    assert bare_model(adapt(model))[0] is not first


def test_frequencies_that_a_long_prompt_changes_are_not_the_bridges() -> None:
    """Beyond a length LongRoPE puts other frequencies in the place of those that are there."""
    scaled = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "short_factor": [1.0] * 4,
        "long_factor": [8.0] * 4,
    }
    hf_model = tiny_transformers_model("llama", rope_parameters=scaled, max_position_embeddings=64)
    plain = copy.deepcopy(hf_model)
    model = bridge_of(hf_model)
    short, long = [list(range(3, 10))], [[3 + place % 90 for place in range(40)]]
    alone = model(torch.tensor(short))
    for prompt in (short, long, short):
        got = trace(model, prompt, logits="last").logits.values[0]
        with torch.no_grad():
            np.testing.assert_allclose(got, plain(torch.tensor(prompt)).logits[0, -1], atol=1e-5)
        torch.testing.assert_close(model(torch.tensor(short)), alone, rtol=0, atol=1e-6)


def test_plans_and_contexts_are_run_on_the_bridge() -> None:
    model = tiny_model("llama")
    assert ran_on(model) == ALONE
    with plan(model, Plan.skip(4, [1])):
        assert ran_on(model) == "the bridge: the model runs under a plan"
    with halting(model, None, "observe") as recorder:
        assert ran_on(model) == "the bridge: hooks of yours stand on it"
    assert len(recorder.runs) > 0, "the context records what is traced inside it"
    assert ran_on(model) == ALONE
    model.enable_compatibility_mode(disable_warnings=True)
    assert "compatibility mode" in ran_on(model)


def test_sublayers_are_measured_on_the_bridge() -> None:
    model = tiny_model("llama")
    assert ran_on(model, measures=["attn_out_norm"]) == "the bridge: what is measured lies inside its blocks"
    assert "inside its blocks" in ran_on(model, rule=L2AdaptiveComputation(0.5, unit="mlp"), effect="bypass")


def test_a_model_that_gives_other_numbers_alone_is_run_on_the_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    run = BareModel.run

    def off(self: Any, given: Any) -> Any:
        logits, cache = run(self, given)
        return logits * 1.01, cache

    monkeypatch.setattr(BareModel, "run", off)
    assert "logits and streams (logits off by 1.0%)" in ran_on(tiny_model("llama"))


def test_a_model_that_fails_alone_is_run_on_the_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, given: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(BareModel, "run", fail)
    assert "(RuntimeError: no such kernel)" in ran_on(tiny_model("llama"))


def test_a_step_that_gives_no_cache_back_is_refused() -> None:
    bare, _ = bare_model(adapt(tiny_model("llama")))
    assert bare is not None
    call, _ = bare.call(torch.tensor([[5, 17]]), torch.ones(1, 2).bool(), None, use_cache=True, keep=1, padded=False)
    forward = bare.twin.forward
    bare.twin.forward = lambda **given: forward(**{**given, "use_cache": False})
    with pytest.raises(UnsupportedModelError, match="asked for a cache and gave none back"):
        bare.run(call)


def test_a_model_that_is_let_go_of_is_gone() -> None:
    model = tiny_model("llama", hooks="full")
    assert ran_on(model) == ALONE
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_an_interrupt_leaves_nobody_watching() -> None:
    model = tiny_model("llama")
    bare, _ = bare_model(adapt(model))
    assert bare is not None

    def interrupted(done: int, n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trace(model, PROMPTS, progress=interrupted)
    assert bare._see is None
    assert torch.is_grad_enabled()
