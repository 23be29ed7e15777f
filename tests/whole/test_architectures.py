"""Every decoder architecture, tiny and random: block-level measures, batches, cached decode, the load-time check."""

import numpy as np
import pytest
import torch
from helpers import PROMPTS, assert_same_trace, layers_of, left_padded, rows_of, shared_model, unchanged

from lacscope import L2AdaptiveComputation, UnsupportedModelError, halting, trace
from lacscope.models._checks import check_blocks, check_stream
from lacscope.testing import ARCHITECTURES, tiny_model, tiny_transformers_model

ARCHS = sorted(ARCHITECTURES)
RULE = L2AdaptiveComputation(0.6)


def plain_norms(model, ids):
    """Norms entering and leaving each block of a plain transformers model, by module hooks: [layer, pos]."""
    entering, leaving = [], []

    def keep(module, args, output):
        entering.append(args[0][0].double().norm(dim=-1))
        leaving.append((output[0] if isinstance(output, tuple) else output)[0].double().norm(dim=-1))

    handles = [block.register_forward_hook(keep) for block in layers_of(model)]
    with torch.no_grad():
        model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.stack(entering).numpy(), torch.stack(leaving).numpy()


@pytest.mark.parametrize("architecture", ARCHS)
def test_norms_are_those_of_the_plain_transformers_model(architecture):
    pre, post = plain_norms(tiny_transformers_model(architecture), torch.tensor([PROMPTS[0]]))
    for hooks in ("full", "residual"):
        rows = rows_of(trace(shared_model(architecture, hooks), [PROMPTS[0]]), 0)
        np.testing.assert_allclose(rows.resid_pre_norm.values, pre, rtol=2e-6)
        np.testing.assert_allclose(rows.resid_post_norm.values, post, rtol=2e-6)
        np.testing.assert_allclose(rows.delta_norm.values, post - pre, atol=2e-6 * post.max())


@pytest.mark.parametrize("effect", ["observe", "bypass", "readout"])
@pytest.mark.parametrize("architecture", ARCHS)
def test_a_padded_batch_equals_one_by_one(architecture, effect):
    model = shared_model(architecture, "residual")
    options = {"rule": RULE, "effect": effect, "max_new_tokens": 5, "logits": "last"}
    together = trace(model, PROMPTS, batch_size=4, **options)
    with unchanged(model):
        apart = trace(model, PROMPTS, batch_size=1, **options)
    for sample in range(len(PROMPTS)):
        assert_same_trace(rows_of(together, sample), rows_of(apart, sample))
    assert abs(together.logits.values - apart.logits.values).max() < 1e-4


@pytest.mark.parametrize("architecture", ARCHS)
def test_one_pass_and_cached_decode_read_the_same_streams(architecture):
    """Prefill against decode is no computational difference."""
    model = shared_model(architecture, "residual")
    decoded = trace(model, [PROMPTS[0]], rule=RULE, effect="bypass", max_new_tokens=7)
    rows = rows_of(decoded, 0)
    ids = rows.token_id.values.tolist()
    at_once = rows_of(trace(model, [ids], rule=RULE, effect="bypass"), 0)
    assert set(rows.phase.values) == {"prefill", "decode"}
    assert set(at_once.phase.values) == {"prefill"}
    scale = rows.resid_post_norm.values.max()
    for name in ("resid_pre_norm", "resid_post_norm", "delta_norm", "update_norm"):
        np.testing.assert_allclose(rows[name].values, at_once[name].values, rtol=1e-5, atol=1e-5 * scale)
    np.testing.assert_array_equal(rows.void.values, at_once.void.values)


@pytest.mark.parametrize("architecture", ARCHS)
def test_training_still_works_after_a_trace(architecture):
    """trace runs under inference_mode; nothing of that may stay in the model's buffers or caches."""
    model = tiny_model(architecture)
    trace(model, PROMPTS, rule=RULE, effect="readout", max_new_tokens=3)
    ids, mask = left_padded(PROMPTS)
    model(ids, attention_mask=mask).sum().backward()
    with halting(model, RULE, "bypass"):
        model(ids[:1], attention_mask=mask[:1]).sum().backward()


@pytest.mark.parametrize("architecture", ARCHS)
def test_the_streams_are_where_their_names_say(architecture):
    assert check_stream(shared_model(architecture)).chained


@pytest.mark.parametrize("hooks", ["full", "residual"])
def test_a_bloom_that_normalises_its_residual_keeps_block_measures(hooks):
    """Its attention output is not what is added to resid_pre: sublayers are refused, blocks are not."""
    option = {"apply_residual_connection_post_layernorm": True}
    model = tiny_model("bloom", hooks=hooks, **option)
    pre, post = plain_norms(tiny_transformers_model("bloom", **option), torch.tensor([PROMPTS[0]]))
    rows = rows_of(trace(model, [PROMPTS[0]]), 0)
    np.testing.assert_allclose(rows.resid_pre_norm.values, pre, rtol=2e-6)
    np.testing.assert_allclose(rows.resid_post_norm.values, post, rtol=2e-6)


def test_a_model_without_residual_hook_points_is_refused_by_layer():
    model = tiny_model("llama")

    class Blind:
        def __getattr__(self, name):
            return getattr(model, name)

        def get_hook_point(self, name):
            return None if name == "blocks.2.hook_resid_post" else model.get_hook_point(name)

    with pytest.raises(UnsupportedModelError, match=r"no hook_resid_pre / hook_resid_post at layers \[2\] of 4"):
        check_blocks(Blind())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("given", [object(), None, "smollm2-135m-instruct", torch.nn.Linear(2, 2)])
def test_what_is_no_transformerlens_model_is_refused_in_words(given):
    with pytest.raises(TypeError, match="expected a TransformerLens TransformerBridge or HookedTransformer, got"):
        trace(given, [[1, 2]])


@pytest.mark.usefixtures("unchecked")
def test_a_plain_transformers_model_is_refused_with_what_to_do():
    with pytest.raises(TypeError, match=r"boot_transformers\(name, hf_model=model"):
        halting(tiny_transformers_model("llama"), RULE, "observe").__enter__()
