"""bypass takes a block out for real; bypassing nothing and observing change nothing."""

import pytest
import torch
from helpers import PROMPTS, SlowLac, bridge_of, left_padded, rows_of, shared_model, without_layers

from lacscope import FixedLayers, L2AdaptiveComputation, Recorder, halting, halting_hooks, trace
from lacscope.testing import ARCHITECTURES, tiny_transformers_model

ARCHS = sorted(ARCHITECTURES)
DELETED = [{2}, {0, 3}, {1, 2}, {0, 1, 2, 3}]
IDS = torch.tensor([PROMPTS[0]])


def greedy(model, prompt, steps):
    """Cached greedy generation, token by token: the tokens and every step's logits."""
    logits, cache = model(prompt, return_type="logits_and_cache", use_cache=True)
    seen = [logits]
    tokens = []
    for _ in range(steps):
        tokens.append(int(seen[-1][0, -1].argmax()))
        logits, cache = model(
            torch.tensor([tokens[-1:]]), return_type="logits_and_cache", past_key_values=cache, use_cache=True
        )
        seen.append(logits)
    return tokens, torch.cat(seen, dim=1)


def greedy_plain(model, prompt, steps):
    with torch.no_grad():
        output = model(prompt, use_cache=True)
        seen, tokens = [output.logits], []
        for _ in range(steps):
            tokens.append(int(seen[-1][0, -1].argmax()))
            output = model(torch.tensor([tokens[-1:]]), past_key_values=output.past_key_values, use_cache=True)
            seen.append(output.logits)
    return tokens, torch.cat(seen, dim=1)


@pytest.mark.parametrize("architecture", ARCHS)
def test_bypass_equals_deleting_the_blocks(architecture):
    model = shared_model(architecture, "residual")
    full = model(IDS)
    for deleted in DELETED[:3]:
        expected = without_layers(architecture, deleted)(IDS).logits
        logits = model.run_with_hooks(IDS, fwd_hooks=halting_hooks(model, FixedLayers(deleted), "bypass"))
        assert (logits - expected).abs().max() < 1e-5
        assert (logits - full).abs().max() > 1e-2, "the deleted blocks did nothing: the test shows nothing"


@pytest.mark.parametrize("architecture", ARCHS)
def test_bypass_equals_deleting_in_cached_generation(architecture):
    model = shared_model(architecture, "residual")
    expected_tokens, expected = greedy_plain(without_layers(architecture, {1, 2}), IDS, 5)
    with torch.no_grad(), halting(model, FixedLayers([1, 2]), "bypass") as recorder:
        tokens, logits = greedy(model, IDS, 5)
    assert tokens == expected_tokens
    assert (logits - expected).abs().max() < 1e-5
    assert recorder.trace.void.sel(layer=[1, 2]).all()
    assert not recorder.trace.void.sel(layer=[0, 3]).any()


def test_trace_under_bypass_generates_what_the_shorter_model_does():
    deleted = without_layers("llama", {0, 2})
    traced = trace(
        shared_model("llama"), PROMPTS, rule=FixedLayers([0, 2]), effect="bypass", max_new_tokens=6, logits="all"
    )
    for sample, prompt in enumerate(PROMPTS):
        tokens, logits = greedy_plain(deleted, torch.tensor([prompt]), 6)
        rows = rows_of(traced, sample)
        produced = rows.next_token_id.values[len(prompt) - 1 :].tolist()
        assert produced == tokens[: len(produced)]
        read = len(rows.token)
        difference = torch.as_tensor(rows.logits.values) - logits[0, :read]
        assert difference.abs().max() < 1e-4


def test_bypassing_every_block_leaves_the_embedding():
    model = shared_model("llama", "residual")
    with halting(model, FixedLayers(range(4)), "bypass") as recorder:
        logits = model(IDS)
    plain = tiny_transformers_model("llama")
    expected = plain.lm_head(plain.model.norm(plain.model.embed_tokens(IDS)))
    assert (logits - expected).abs().max() < 1e-5
    rows = recorder.trace
    assert (rows.resid_post_norm.values == rows.resid_pre_norm.values).all()
    assert (rows.delta_norm.values != 0).any(), "delta_norm is the candidate's, also at voids"


@pytest.mark.parametrize("architecture", ARCHS)
def test_bypassing_nothing_and_observing_are_the_identity_bit_for_bit(architecture):
    model = shared_model(architecture)
    expected = model(IDS)
    lac = L2AdaptiveComputation(0.5)
    for rule, effect in ((FixedLayers([]), "bypass"), (FixedLayers([]), "readout"), (lac, "observe")):
        hooks = halting_hooks(model, rule, effect, recorder=Recorder())
        assert torch.equal(model.run_with_hooks(IDS, fwd_hooks=hooks), expected)
        with halting(model, rule, effect):
            assert torch.equal(model(IDS), expected)
    with halting(model, None, "observe"):
        assert torch.equal(model(IDS), expected)


@pytest.mark.parametrize("hooks", ["full", "residual"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "olmo2", "gpt2", "bloom"])
def test_observe_in_trace_gives_the_logits_of_the_plain_model_and_of_the_bridge(architecture, hooks):
    model, plain = shared_model(architecture, hooks), tiny_transformers_model(architecture)
    ids, mask = left_padded(PROMPTS)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    with torch.inference_mode():
        # BLOOM takes no positions.
        expected = plain(ids, attention_mask=mask, **({} if architecture == "bloom" else {"position_ids": positions}))
        bridged = model(ids, attention_mask=mask)
    on_bridge = ("blocks.0.hook_resid_pre", lambda stream, hook: None)
    for rule, effect in ((None, "observe"), (L2AdaptiveComputation(0.8), "observe"), (FixedLayers([]), "bypass")):
        alone = trace(model, PROMPTS, rule=rule, effect=effect, logits="all")
        traced = trace(model, PROMPTS, rule=rule, effect=effect, logits="all", fwd_hooks=on_bridge)
        for sample, prompt in enumerate(PROMPTS):
            n = len(prompt)
            assert torch.equal(torch.as_tensor(alone.logits.values[sample, :n]), expected.logits[sample, -n:])
            assert torch.equal(torch.as_tensor(traced.logits.values[sample, :n]), bridged[sample, -n:])


@pytest.mark.parametrize("architecture", ARCHS)
def test_bypass_of_both_sublayers_equals_bypass_of_the_block(architecture):
    model = shared_model(architecture)
    try:
        hooks = [hook for unit in ("attn", "mlp") for hook in halting_hooks(model, FixedLayers([1, 2], unit), "bypass")]
    except RuntimeError as error:
        pytest.skip(f"sublayers refused: {error}")
    logits = model.run_with_hooks(IDS, fwd_hooks=hooks)
    expected = model.run_with_hooks(IDS, fwd_hooks=halting_hooks(model, FixedLayers([1, 2]), "bypass"))
    assert (logits - expected).abs().max() < 1e-5


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "gpt_neox", "bloom"])
@pytest.mark.parametrize("effect", ["observe", "bypass", "readout"])
@pytest.mark.parametrize("alpha", [0.6, 2.0])
def test_lac_equals_the_slow_direct_implementation(architecture, effect, alpha):
    """Masks, norms, tokens and logits, in prefill and cached decode, against plain loops over plain layers."""
    slow = SlowLac(tiny_transformers_model(architecture), alpha, effect)
    tokens = slow.generate(PROMPTS[0], 5)
    model = shared_model(architecture, "residual")
    with torch.no_grad(), halting(model, L2AdaptiveComputation(alpha), effect) as recorder:
        got, logits = greedy(model, IDS, 4)
    assert got == tokens[:4]
    rows = recorder.trace.isel(sample=0)
    void = slow.array("void")
    assert void.any() or alpha < 1
    assert not void.all()
    assert (rows.void.values == void).all()
    for name, short in (
        ("resid_pre_norm", "pre"),
        ("resid_post_norm", "post"),
        ("delta_norm", "delta"),
        ("update_norm", "update"),
    ):
        scale = slow.array("post").max()
        assert abs(rows[name].values - slow.array(short)).max() < 1e-5 * scale, name
    assert (logits[0] - torch.stack(slow.logits)).abs().max() < 1e-4


@pytest.mark.parametrize("architecture", ["llama", "bloom"])
@pytest.mark.parametrize("effect", ["bypass", "readout"])
def test_trace_of_a_batch_equals_the_slow_direct_implementation(architecture, effect):
    traced = trace(
        shared_model(architecture), PROMPTS, rule=L2AdaptiveComputation(0.6), effect=effect, max_new_tokens=5
    )
    for sample, prompt in enumerate(PROMPTS):
        slow = SlowLac(tiny_transformers_model(architecture), 0.6, effect)
        tokens = slow.generate(prompt, 5, frozenset({2}))
        rows = rows_of(traced, sample)
        assert rows.next_token_id.values[len(prompt) - 1 :].tolist() == tokens
        assert (rows.void.values == slow.array("void")).all()
        assert abs(rows.resid_post_norm.values - slow.array("post")).max() < 1e-5 * slow.array("post").max()


@pytest.mark.parametrize("layers", [[3], [0, 1], [2, 3], [0, 1, 2, 3], [1, 3]])
def test_readout_returns_the_stream_after_the_last_active_block(layers):
    model = shared_model("llama", "residual")
    _, cache = model.run_with_cache(IDS)
    active = [layer for layer in range(4) if layer not in layers]
    stream = cache[f"blocks.{active[-1]}.hook_resid_post"] if active else cache["blocks.0.hook_resid_pre"]
    plain = tiny_transformers_model("llama")
    expected = plain.lm_head(plain.model.norm(stream))
    logits = model.run_with_hooks(IDS, fwd_hooks=halting_hooks(model, FixedLayers(layers), "readout"))
    assert (logits - expected).abs().max() < 1e-5


def test_readout_leaves_keys_and_values_alone():
    model = shared_model("llama", "residual")
    _, plain = model(IDS, return_type="logits_and_cache", use_cache=True)
    with halting(model, L2AdaptiveComputation(0.6), "readout"):
        _, read = model(IDS, return_type="logits_and_cache", use_cache=True)
    with halting(model, L2AdaptiveComputation(0.6), "bypass"):
        _, bypassed = model(IDS, return_type="logits_and_cache", use_cache=True)
    for a, b in zip(plain.layers, read.layers, strict=True):
        assert torch.equal(a.keys, b.keys)
        assert torch.equal(a.values, b.values)
    assert not torch.equal(plain.layers[-1].keys, bypassed.layers[-1].keys)


def test_a_bypassed_layer_still_gives_its_keys_and_values():
    """Keys and values of halted tokens stay visible: at layer l they are made from h_l."""
    model = shared_model("llama", "residual")
    with halting(model, FixedLayers([2]), "bypass"):
        _, cache = model(IDS, return_type="logits_and_cache", use_cache=True)
    _, plain = model(IDS, return_type="logits_and_cache", use_cache=True)
    assert torch.equal(cache.layers[2].keys, plain.layers[2].keys)
    assert not torch.equal(cache.layers[3].keys, plain.layers[3].keys)


def test_bypass_in_bfloat16_measures_in_float32():
    model = bridge_of(tiny_transformers_model("llama").to(torch.bfloat16))
    _, cache = model.run_with_cache(IDS)
    with halting(model, FixedLayers([]), "bypass") as recorder:
        logits = model(IDS)
    assert torch.equal(logits, model(IDS))
    got = torch.as_tensor(recorder.trace.resid_post_norm.values[0])
    expected = torch.stack([cache[f"blocks.{k}.hook_resid_post"][0].float().norm(dim=-1) for k in range(4)])
    assert torch.allclose(got, expected, rtol=1e-6)
