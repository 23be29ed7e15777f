"""The self-check, and what it is for: recurrent models, pads, bridges that compute otherwise, what is no decoder.

References are plain transformers: tokens by reading the whole text again for each, norms by ``output_hidden_states``.
"""

import copy
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import bridge_of, rows_of, shared_model, unchanged
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from lacscope import (
    FixedLayers,
    L2AdaptiveComputation,
    Plan,
    PlanError,
    RunWarning,
    UnsupportedModelError,
    block_influence,
    halting,
    halting_hooks,
    plan,
    trace,
)
from lacscope.models._checks import check_blocks
from lacscope.models.adapters import BridgeAdapter, adapt, self_check
from lacscope.models.adapters._bare_twin import bare_twin
from lacscope.testing import tiny_model, tiny_transformers_model

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
from tiny_architectures import build

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21, 22, 23], [30]]
RECURRENT = ("mamba", "mamba2", "falcon_mamba", "rwkv", "recurrent_gemma")
ONE_AT_A_TIME = ("rwkv", "recurrent_gemma")
HYBRIDS = ("bamba", "falcon_h1", "jamba", "lfm2", "qwen3_next")


def plain_tokens(model, prompt, n):
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(n):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == 2:
                break
    return ids[len(prompt) :]


def block_norms(model, ids, n_layers=4):
    """[layer, token], entering every block but the first."""
    entering = []
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n_layers)
    handles = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: entering.append((*args, *kwargs.values())[0]), with_kwargs=True
        )
        for layer in layers
    ]
    with torch.no_grad():
        model(torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.stack([stream[0].double().norm(dim=-1) for stream in entering]).numpy()


def found_in(traced):
    return json.loads(traced.attrs["self_check"])


def produced(rows):
    tokens = rows.next_token_id.values
    return tokens[tokens >= 0].tolist()


# --- recurrent models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hooks", ["residual", "full"])
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_models_decode_as_plain_recomputation(kind, hooks):
    plain = build(kind)
    model = bridge_of(copy.deepcopy(plain), hooks)
    together = trace(model, PROMPTS, max_new_tokens=5)
    for sample, prompt in enumerate(PROMPTS):
        rows = rows_of(together, sample)
        tokens = plain_tokens(plain, prompt, 5)
        assert produced(rows) == tokens
        right = block_norms(plain, prompt + tokens[:-1])
        np.testing.assert_allclose(rows.resid_pre_norm.values, right, rtol=1e-4, atol=1e-4 * right.max())
    assert (found_in(together)["padding"] == "equal") == (kind not in ONE_AT_A_TIME)


@pytest.mark.parametrize("kind", RECURRENT + HYBRIDS)
def test_rules_that_share_a_prefill_read_what_each_reads_alone(kind):
    """Rows of a recurrent state are divided and dropped as keys and values are; or each rule has its own run."""
    model = bridge_of(build(kind))
    rules = [FixedLayers([3]), L2AdaptiveComputation(0.5), FixedLayers([1, 2, 3])]
    together = trace(model, PROMPTS, rule=rules, effect="readout", max_new_tokens=5)
    for place, rule in enumerate(rules):
        alone = trace(model, PROMPTS, rule=rule, effect="readout", max_new_tokens=5)
        shared = together.isel(rule=place, token=slice(alone.sizes["token"]))
        np.testing.assert_array_equal(shared.next_token_id.values, alone.next_token_id.values)
        np.testing.assert_allclose(shared.resid_post_norm.values, alone.resid_post_norm.values, rtol=1e-4, atol=1e-3)


def test_a_cached_token_is_told_where_it_stands():
    """Bamba counts positions from the pass's own first token unless it is given them."""
    plain = build("bamba")
    model = bridge_of(copy.deepcopy(plain), "full")
    for prompt in (*PROMPTS[:2], [31]):  # after 30 two tokens are as likely
        rows = rows_of(trace(model, [prompt], max_new_tokens=5), 0)
        tokens = plain_tokens(plain, prompt, 5)
        assert produced(rows) == tokens
        right = block_norms(plain, prompt + tokens[:-1])
        np.testing.assert_allclose(rows.resid_pre_norm.values, right, rtol=1e-4, atol=1e-4 * right.max())
    with halting(model, None, "observe") as recorder:
        first = model.original_model(torch.tensor([PROMPTS[0]]), use_cache=True)
        again = {"past_key_values": first.past_key_values, "use_cache": True}
        with pytest.raises(UnsupportedModelError, match="unless it is told where it stands"):
            model.original_model(torch.tensor([[14]]), **again)
        model.original_model(torch.tensor([[14]]), position_ids=torch.tensor([[9]]), **again)
    right = block_norms(plain, [*PROMPTS[0], 14])
    np.testing.assert_allclose(rows_of(recorder.trace, 0).resid_pre_norm.values, right, rtol=1e-4)


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_recurrent_model_is_left_as_it_was(kind):
    model = bridge_of(build(kind))
    trace(model, PROMPTS)
    held = {
        (name, key): value
        for name, module in model.original_model.named_modules()
        for key, value in vars(module).items()
        if key.endswith(("_state", "_states"))
    }
    with unchanged(model):
        trace(model, PROMPTS, max_new_tokens=3)
    now = dict(model.original_model.named_modules())
    assert all(getattr(now[name], key) is value for (name, key), value in held.items())


def test_halting_sees_a_mamba_generation_as_one_run():
    plain = build("mamba")
    model = bridge_of(copy.deepcopy(plain), "full")
    ids = torch.tensor([PROMPTS[0]])
    with halting(model, None, "observe") as recorder:
        model.generate(ids, max_new_tokens=4, do_sample=False, verbose=False, stop_at_eos=False)
    rows = rows_of(recorder.trace, 0)
    assert rows.phase.values.tolist() == ["prefill"] * 9 + ["decode"] * 3
    assert rows.token_id.values.tolist()[9:] == plain_tokens(plain, PROMPTS[0], 3)
    right = block_norms(plain, rows.token_id.values.tolist())
    np.testing.assert_allclose(rows.resid_pre_norm.values, right, rtol=1e-4, atol=1e-4 * right.max())


def test_transformers_own_generation_of_rwkv_is_one_run():
    plain = build("rwkv")
    model = bridge_of(copy.deepcopy(plain))
    with halting(model, None, "observe") as recorder:
        ids = torch.tensor([PROMPTS[0]])
        first = model.original_model(ids, use_cache=True)
        model.original_model(torch.tensor([[14]]), state=first.state, use_cache=True)
    rows = rows_of(recorder.trace, 0)
    right = block_norms(plain, [*PROMPTS[0], 14])
    np.testing.assert_allclose(rows.resid_pre_norm.values, right, rtol=1e-4, atol=1e-4 * right.max())


@pytest.mark.parametrize("kind", ["mamba", "rwkv"])
def test_a_state_filled_outside_the_context_is_a_run_of_its_own_and_says_so(kind):
    model = bridge_of(build(kind))
    name = "state" if kind == "rwkv" else "cache_params"
    state = getattr(model.original_model(torch.tensor([PROMPTS[0]]), use_cache=True), name)
    with halting(model, None, "observe") as recorder, pytest.warns(RunWarning, match="uncounted cached tokens"):
        model.original_model(torch.tensor([[14]]), **{name: state}, use_cache=True)
    assert recorder.trace.sizes["token"] == 1


def test_a_generation_that_loses_its_state_is_refused():
    """TransformerLens's loop does not hand RecurrentGemma its state back: a step would read a prompt of one token."""
    model = bridge_of(build("recurrent_gemma"))
    with halting(model, None, "observe"), pytest.raises(UnsupportedModelError, match="asked for a cache and gave none"):
        model(torch.tensor([PROMPTS[0]]), use_cache=True)


def test_a_rescaled_stream_is_read_in_one_unit():
    plain = build("rwkv")
    halved = copy.deepcopy(plain)
    plain.config.rescale_every = plain.rwkv.config.rescale_every = 0
    halved.config.rescale_every = halved.rwkv.config.rescale_every = 2
    halved.rwkv.layers_are_rescaled = False  # one that has not run yet
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        logits = plain(ids, use_cache=False).logits
        halved(ids, use_cache=False)
    rows = rows_of(trace(bridge_of(halved), PROMPTS[:1], logits="last"), 0)
    np.testing.assert_allclose(rows.resid_pre_norm.values, block_norms(plain, PROMPTS[0]), rtol=1e-4)
    np.testing.assert_allclose(rows.logits.values, logits[0, -1].numpy(), atol=1e-3)


@pytest.mark.parametrize("kind", ["mamba", "rwkv", "falcon_h1"])
def test_a_plan_of_a_recurrent_model_runs_without_a_cache_alone(kind):
    model = bridge_of(build(kind))
    with plan(model, Plan.skip(4, [1])):
        trace(model, PROMPTS[:1])
        with pytest.raises(PlanError, match="without a cache"):
            trace(model, PROMPTS[:1], max_new_tokens=3)


# --- what is no decoder, or computes something else -----------------------------------------------------------------


def test_a_bidirectional_model_is_refused():
    config = BertConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, vocab_size=97)
    model = bridge_of(BertForMaskedLM(config).eval())
    for call in (
        lambda: trace(model, PROMPTS),
        lambda: block_influence(model, PROMPTS),
        lambda: halting(model, None, "observe").__enter__(),
        lambda: plan(model, Plan.skip(3, [1])).__enter__(),
    ):
        with pytest.raises(UnsupportedModelError, match=r"no causal decoder: .* bidirectional encoder such as BERT"):
            call()


@pytest.mark.parametrize("hooks", ["residual", "full"])
def test_an_encoder_and_decoder_is_refused(hooks):
    config = T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=97)
    with pytest.raises(UnsupportedModelError, match="T5ForConditionalGeneration is an encoder and a decoder"):
        trace(bridge_of(T5ForConditionalGeneration(config).eval(), hooks), PROMPTS)


def test_a_bridge_that_computes_its_own_attention_is_read_without_it():
    """Falcon with ALiBi: right with the blocks' insides unhooked, and refused where they are needed."""
    plain = tiny_transformers_model("falcon", alibi=True)
    model = tiny_model("falcon", alibi=True)
    traced = trace(model, PROMPTS[:1], rule=L2AdaptiveComputation(0.5), effect="bypass")
    np.testing.assert_allclose(
        trace(model, PROMPTS[:1]).resid_pre_norm.values[0], block_norms(plain, PROMPTS[0]), rtol=1e-5
    )
    found = found_in(traced)
    assert found["bridge"].startswith("logits off by ")
    assert found["lean"] == "equal"
    for call in (
        lambda: halting(model, None, "observe").__enter__(),
        lambda: halting_hooks(model, FixedLayers([1]), "bypass"),
        lambda: plan(model, Plan.skip(4, [1])).__enter__(),
        lambda: trace(model, PROMPTS, fwd_hooks=[("blocks.0.hook_resid_post", lambda a, hook: None)]),
    ):
        with pytest.raises(UnsupportedModelError, match=r"does not compute .* \(logits off by .*hooks='residual'"):
            call()


@pytest.mark.parametrize(
    ("kind", "hooks", "words"),
    [
        ("helium", "residual", "HeliumForCausalLM.*has no adapter for that architecture"),
        ("hrm_text", "residual", "no single stack of blocks"),
        ("hrm_text", "full", "no single stack of blocks"),
        ("deepseek_v4", "residual", r"hand on \[1, 12, 4, 32\], and not one stream a token"),
        ("openai-gpt", "residual", r"do not fire where blocks.0.hook_resid_post is due"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence_or_two(kind, hooks, words):
    with pytest.raises(UnsupportedModelError, match=words) as refusal:
        trace(bridge_of(build(kind), hooks), PROMPTS)
    assert len(str(refusal.value)) < 400


def test_a_model_that_gives_its_last_stream_the_shape_of_what_it_read_has_a_run_for_each_rule():
    model = bridge_of(build("gpt_bigcode"))
    rules = [FixedLayers([3]), FixedLayers([2, 3])]
    together = trace(model, PROMPTS[:1], rule=rules, effect="readout", max_new_tokens=3)
    alone = trace(model, PROMPTS[:1], rule=rules[1], effect="readout", max_new_tokens=3)
    np.testing.assert_array_equal(together.isel(rule=1).token_id.values, alone.token_id.values)


# --- a fault put in on purpose ------------------------------------------------------------------------------------


def faulty(change):
    """A tiny Llama whose forward passes are changed on the way in."""
    hf_model = tiny_transformers_model("llama")
    kind = type(hf_model)
    original = kind.forward

    def forward(self, input_ids=None, past_key_values=None, attention_mask=None, position_ids=None, **kwargs):
        given = {"past_key_values": past_key_values, "attention_mask": attention_mask, "position_ids": position_ids}
        return original(self, input_ids, **change(input_ids, given), **kwargs)

    hf_model.__class__ = type("LlamaForCausalLM", (kind,), {"forward": forward})
    return bridge_of(hf_model)


def cached(given):
    return given["past_key_values"] is not None and given["past_key_values"].get_seq_length() > 0


def test_steps_that_are_not_recomputation_are_refused_and_prompts_are_read():
    def stand_still(ids, given):
        return given | ({"position_ids": torch.zeros_like(ids)} if cached(given) else {})

    model = faulty(stand_still)
    read = trace(model, PROMPTS, batch_size=1)
    right = trace(shared_model(), PROMPTS, batch_size=1)
    np.testing.assert_allclose(read.resid_post_norm.values, right.resid_post_norm.values, rtol=1e-5)
    with pytest.raises(UnsupportedModelError, match=r"a step with its cache is not .* \(logits off by .* responses="):
        trace(model, PROMPTS, max_new_tokens=2)


def test_where_pads_change_the_numbers_prompts_are_read_one_at_a_time():
    model = faulty(lambda ids, given: given | {"attention_mask": None})
    together = trace(model, PROMPTS, batch_size=3)
    right = trace(shared_model(), PROMPTS, batch_size=1)
    assert found_in(together)["padding"].startswith("logits off by ")
    np.testing.assert_allclose(together.resid_post_norm.values, right.resid_post_norm.values, rtol=1e-5)


def test_a_step_that_gets_no_cache_back_raises():
    model = tiny_model("llama", hooks="residual")
    trace(model, PROMPTS)
    forget = model.original_model.register_forward_hook(
        lambda module, args, output: output.__class__(logits=output.logits)
    )
    try:
        with pytest.raises(UnsupportedModelError, match="gave none back"):
            trace(model, PROMPTS, max_new_tokens=3)
    finally:
        forget.remove()


# --- the check itself -----------------------------------------------------------------------------------------------


def test_what_was_checked_stands_in_the_trace():
    for traced in (
        trace(shared_model(), PROMPTS),
        trace(shared_model(), PROMPTS, rule=FixedLayers([1]), effect="bypass"),
    ):
        assert found_in(traced) == {
            **dict.fromkeys(("stream", "bridge", "lean", "causal", "decode", "padding"), "equal"),
            "tolerance": 1e-4,
            "n_tokens": 12,
        }


def test_it_runs_once_a_model_and_costs_nothing_after():
    model = tiny_model("llama")
    passes = []
    model.original_model.model.register_forward_hook(lambda *args: passes.append(1))
    start = time.process_time()
    check_blocks(model)
    assert time.process_time() - start < 1
    n = len(passes)
    assert 0 < n <= 10
    check_blocks(model)
    assert len(passes) == n


def test_nobody_notices_it():
    model = tiny_model("llama")
    fired = []
    model.add_hook("blocks.1.hook_resid_post", lambda activation, hook: fired.append(1))
    model(torch.tensor([PROMPTS[0]]))  # TransformerLens hooks some modules in its first pass
    fired.clear()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with unchanged(model):
        found = self_check(adapt(model))
    assert found is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert not fired


def test_the_users_own_module_hooks_are_no_fault_of_the_bridge():
    model = tiny_model("llama", hooks="residual")
    model.original_model.model.layers[1].mlp.register_forward_hook(lambda module, args, output: output * 2)
    assert found_in(trace(model, PROMPTS))["bridge"] == (
        "not compared: modules of the wrapped model carry hooks of their own"
    )


def test_processed_weights_are_not_compared():
    model = tiny_model("gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.enable_compatibility_mode()
    assert found_in(trace(model, PROMPTS))["bridge"].startswith("not compared: the bridge's weights were processed")


@pytest.mark.parametrize(
    ("architecture", "dtype", "tolerance"),
    [
        *[(name, torch.bfloat16, 5e-2) for name in ("llama", "gemma2", "mixtral")],
        *[(name, torch.float16, 1e-2) for name in ("llama", "gemma2", "mixtral")],
        ("llama", torch.float64, 1e-4),
    ],
)
def test_rounding_is_no_fault(architecture, dtype, tolerance):
    found = self_check(adapt(bridge_of(tiny_transformers_model(architecture).to(dtype))))
    assert found is not None
    assert (found.bridge, found.decode, found.padding, found.tolerance) == ("equal", "equal", "equal", tolerance)


@pytest.mark.parametrize("nth", range(8))
def test_a_failure_that_passes_is_not_remembered_as_the_models(nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check's n-th pass fails, as a busy device may have it; refused for life, the model would be right."""
    step, n_passes = BridgeAdapter.step, 0

    def fails_once(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal n_passes
        n_passes += 1
        if n_passes == nth + 1:
            raise RuntimeError("the device is busy")
        return step(self, *args, **options)

    monkeypatch.setattr(BridgeAdapter, "step", fails_once)
    adapter = adapt(bridge_of(tiny_transformers_model("llama"), "full"))
    try:
        found = self_check(adapter)
    except RuntimeError:
        found = self_check(adapter)  # said at once, and tried again at the next use
    assert found is not None
    assert {found.bridge, found.lean, found.stream, found.causal, found.decode, found.padding} == {"equal"}


def test_the_bare_twin_shares_its_weights_and_nothing_else():
    plain = tiny_transformers_model("gpt2")
    plain.set_attn_implementation("eager")
    model = bridge_of(copy.deepcopy(plain), "full")
    with unchanged(model):
        twin = bare_twin(model.original_model)
    assert {type(module) for module in twin.modules()} == {type(module) for module in plain.modules()}
    assert {id(p) for p in twin.parameters()} <= {id(p) for p in model.original_model.parameters()}
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        assert torch.equal(twin(ids).logits, plain(ids).logits)
