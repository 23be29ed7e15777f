"""Attention and MLP as units of a rule: their own deltas, their own histories, parallel blocks."""

import numpy as np
import pytest
import torch
from helpers import PROMPTS, SlowSublayers, assert_same_trace, bridge_of, rows_of, shared_model

from lacscope import FixedLayers, L2AdaptiveComputation, UnsupportedModelError, halting, halting_hooks, trace
from lacscope.testing import tiny_model, tiny_transformers_model

IDS = torch.tensor([PROMPTS[0]])
SEQUENTIAL = ["llama", "gpt2", "qwen3", "mistral"]
PARALLEL = ["gpt_neox", "phi", "falcon"]


@pytest.mark.parametrize("effect", ["observe", "bypass"])
@pytest.mark.parametrize("unit", ["attn", "mlp"])
@pytest.mark.parametrize("architecture", SEQUENTIAL + PARALLEL)
def test_lac_on_a_sublayer_equals_the_slow_direct_implementation(architecture, unit, effect):
    parallel = architecture in PARALLEL
    slow = SlowSublayers(tiny_transformers_model(architecture), unit, 0.9, effect, parallel=parallel)
    expected = slow.read(PROMPTS[0])
    model = shared_model(architecture)
    with halting(model, L2AdaptiveComputation(0.9, unit), effect) as recorder:
        logits = model(IDS)[0]
    rows = recorder.trace.isel(sample=0)
    void = np.array(slow.void)
    if not parallel:
        assert void.any()
    assert not void.all()
    assert (rows.void.values == void).all()
    delta = np.array(slow.delta)
    np.testing.assert_allclose(rows[f"{unit}_delta_norm"].values, delta, atol=1e-5 * abs(delta).max())
    assert (logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("unit", ["attn", "mlp"])
@pytest.mark.parametrize("architecture", ["llama", "phi"])
def test_a_batch_of_sublayer_traces_equals_one_by_one(architecture, unit):
    model = shared_model(architecture)
    options = {"rule": L2AdaptiveComputation(0.9, unit), "effect": "bypass", "max_new_tokens": 4}
    together, apart = trace(model, PROMPTS, batch_size=4, **options), trace(model, PROMPTS, batch_size=1, **options)
    for sample in range(len(PROMPTS)):
        assert_same_trace(rows_of(together, sample), rows_of(apart, sample))


@pytest.mark.parametrize("unit", ["attn", "mlp"])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gemma2"])
def test_a_fixed_mask_zeroes_that_sublayer_alone(architecture, unit):
    model = shared_model(architecture)

    def zero(activation, hook):
        return torch.zeros_like(activation)

    expected = model.run_with_hooks(IDS, fwd_hooks=[(f"blocks.{k}.hook_{unit}_out", zero) for k in (1, 3)])
    got = model.run_with_hooks(IDS, fwd_hooks=halting_hooks(model, FixedLayers([1, 3], unit), "bypass"))
    assert torch.equal(got, expected)
    assert not torch.equal(got, model(IDS))


def test_the_first_two_sublayers_of_a_kind_have_threshold_zero():
    """Each kind has its own history: the attention of layer 1 sees one earlier attention delta, no MLP's."""
    model = shared_model("llama")
    for unit in ("attn", "mlp"):
        with halting(model, L2AdaptiveComputation(50.0, unit), "observe") as recorder:
            model(IDS)
        rows = recorder.trace.isel(sample=0)
        assert ((rows[f"{unit}_delta_norm"].values[:2] < 0) == rows.void.values[:2]).all()


@pytest.mark.parametrize("effect", ["observe", "bypass"])
def test_sublayers_are_refused_where_they_do_not_add_up(effect):
    model = tiny_model("bloom", apply_residual_connection_post_layernorm=True)
    for unit in ("attn", "mlp"):
        with pytest.raises(UnsupportedModelError, match=r"resid_pre \+ attn_out \+ mlp_out is not resid_post"):
            halting_hooks(model, L2AdaptiveComputation(0.8, unit), "bypass")
        with pytest.raises(UnsupportedModelError, match="Use block-level measures"):
            trace(model, [PROMPTS[0]], rule=FixedLayers([1], unit), effect=effect)
    with pytest.raises(UnsupportedModelError, match="sublayer measures are refused for tiny-bloom"):
        trace(model, [PROMPTS[0]], measures=["attn_out_norm"])


def test_a_residual_bridge_refuses_sublayers_and_says_how_to_load():
    model = shared_model("llama", "residual")
    for call in (
        lambda: trace(model, [PROMPTS[0]], rule=FixedLayers([1], "mlp"), effect="bypass"),
        lambda: halting_hooks(model, FixedLayers([1], "attn"), "bypass"),
        lambda: halting(model, L2AdaptiveComputation(0.8, "attn"), "bypass").__enter__(),
        lambda: trace(model, [PROMPTS[0]], measures=["mlp_out_norm"]),
    ):
        with pytest.raises(UnsupportedModelError, match=r"reload it with load_model\(\.\.\., hooks='full'\)"):
            call()


def test_a_readout_of_a_sublayer_is_refused():
    with pytest.raises(ValueError, match="not defined for unit='attn'"):
        trace(shared_model("llama"), [PROMPTS[0]], rule=L2AdaptiveComputation(0.8, "attn"), effect="readout")


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gemma2", "bloom"])
def test_sublayer_measures_are_the_norms_of_what_the_sublayers_write(architecture):
    model = shared_model(architecture)
    with torch.no_grad():
        _, cache = model.run_with_cache(IDS)
    traced = trace(model, [PROMPTS[0]], measures=["attn_out_norm", "mlp_out_norm", "cos_pre_post"])
    for layer in range(4):
        pre, post = (cache[f"blocks.{layer}.hook_resid_{end}"][0] for end in ("pre", "post"))
        cosine = torch.cosine_similarity(pre, post, dim=-1)
        for name, expected in (
            ("attn_out_norm", cache[f"blocks.{layer}.hook_attn_out"][0].norm(dim=-1)),
            ("mlp_out_norm", cache[f"blocks.{layer}.hook_mlp_out"][0].norm(dim=-1)),
            ("cos_pre_post", cosine),
        ):
            got = torch.as_tensor(traced[name].values[0, layer])
            assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6), name


def test_the_check_of_sublayers_disturbs_nothing_that_is_open():
    """The check runs the model once: no hook of the user fires, no recorder sees it."""
    model = bridge_of(tiny_transformers_model("llama"), "full")
    seen = []
    model.add_hook("blocks.0.hook_resid_pre", lambda x, hook: seen.append(1))
    with halting(model, None, "observe") as recorder:
        hooks = halting_hooks(model, FixedLayers([1], "attn"), "bypass")
        assert not seen
        assert recorder.runs == []
        model.run_with_hooks(IDS, fwd_hooks=hooks)
    assert len(recorder.runs) == 1
    assert len(seen) == 1
