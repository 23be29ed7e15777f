"""A trace from what run_with_cache kept equals the trace of the same prompts."""

import numpy as np
import pytest
import torch
from helpers import PROMPTS, assert_same_trace, bridge_of, left_padded, rows_of, shared_model

from lacscope import NonFiniteStreamError, trace, trace_from_cache, voids
from lacscope.testing import tiny_transformers_model

# With a hook the trace runs on the bridge, as the cache did; the model alone computes attention in another order.
ON_BRIDGE = {"fwd_hooks": ("blocks.0.hook_resid_pre", lambda stream, hook: None)}
NAMES = ("resid_pre_norm", "resid_post_norm", "delta_norm", "update_norm")


@pytest.mark.parametrize("hooks", ["full", "residual"])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gemma2"])
def test_a_full_batch_equals_trace(architecture, hooks):
    model = shared_model(architecture, hooks)
    prompts = [PROMPTS[0][:4], PROMPTS[3][:4]]
    _, cache = model.run_with_cache(torch.tensor(prompts))
    got, expected = trace_from_cache(cache, torch.tensor(prompts)), trace(model, prompts, **ON_BRIDGE)
    for sample in range(2):
        assert_same_trace(rows_of(got, sample), rows_of(expected, sample), rtol=1e-6, atol=1e-6)
    assert {name: got.attrs[name] for name in ("model", "rule", "effect", "n_layers")} == {
        name: expected.attrs[name] for name in ("model", "rule", "effect", "n_layers")
    }
    assert voids(got, [0.0, 0.8]).equals(voids(expected, [0.0, 0.8]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_norms_are_those_of_the_pass_in_every_number_format(dtype):
    model = bridge_of(tiny_transformers_model("llama").to(dtype), "full")
    ids = torch.tensor([PROMPTS[0]])
    _, cache = model.run_with_cache(ids)
    got, expected = trace_from_cache(cache, ids), trace(model, [PROMPTS[0]], **ON_BRIDGE)
    for name in NAMES:
        np.testing.assert_array_equal(got[name].values, expected[name].values)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_masked_batch_equals_trace(side):
    model = shared_model()
    ids, mask = left_padded(PROMPTS)
    if side == "right":
        ids = torch.tensor([p + [0] * (7 - len(p)) for p in PROMPTS])
        mask = torch.tensor([[1] * len(p) + [0] * (7 - len(p)) for p in PROMPTS])
    _, cache = model.run_with_cache(ids, attention_mask=mask)
    got, expected = trace_from_cache(cache, ids, mask), trace(model, PROMPTS)
    assert (got.phase.values[got.valid.values] == "prefill").all()
    for sample in range(len(PROMPTS)):
        assert_same_trace(rows_of(got, sample), rows_of(expected, sample))


def test_a_plain_dict_of_streams_is_enough():
    model = shared_model()
    ids = torch.tensor([PROMPTS[0]])
    _, cache = model.run_with_cache(ids)
    streams = {
        f"blocks.{layer}.hook_resid_{end}": cache[f"blocks.{layer}.hook_resid_{end}"]
        for layer in range(4)
        for end in ("pre", "post")
    }
    got, expected = trace_from_cache(streams, ids), trace(model, [PROMPTS[0]])
    for name in NAMES:
        np.testing.assert_allclose(got[name].values, expected[name].values, rtol=1e-6, atol=1e-6)
    assert got.attrs["model"] == "unnamed"


@pytest.mark.parametrize("ends", [("hook_in", "hook_out"), ("hook_resid_pre", "hook_resid_post")])
def test_a_filtered_cache_is_enough_under_either_name(ends):
    model = shared_model()
    ids = torch.tensor([PROMPTS[0]])
    names = {f"blocks.{layer}.{end}" for layer in range(4) for end in ends}
    _, cache = model.run_with_cache(ids, names_filter=lambda name: name in names)
    got, expected = trace_from_cache(cache, ids), trace(model, [PROMPTS[0]])
    np.testing.assert_allclose(got.delta_norm.values, expected.delta_norm.values, rtol=1e-6, atol=1e-6)


def test_streams_that_were_not_cached_are_named():
    ids = torch.tensor([PROMPTS[0]])
    _, cache = shared_model().run_with_cache(ids)
    streams = {key: value for key, value in cache.items() if "blocks.2.hook_" not in key}
    with pytest.raises(KeyError, match=r"no blocks\.2\.hook_resid_pre.*names_filter=None"):
        trace_from_cache(streams, ids)
    with pytest.raises(KeyError, match="no residual streams"):
        trace_from_cache({}, ids)


def test_tokens_that_do_not_fit_the_cache_are_refused():
    _, cache = shared_model().run_with_cache(torch.tensor([PROMPTS[0]]))
    with pytest.raises(ValueError, match=r"tokens are \(1, 3\), the cached stream is \(1, 7, 32\)"):
        trace_from_cache(cache, torch.tensor([[1, 2, 3]]))


def test_not_a_number_in_the_cache_is_named():
    ids = torch.tensor([PROMPTS[0]])
    _, cache = shared_model().run_with_cache(ids)
    streams = {key: value.clone() for key, value in cache.items() if key.endswith(("hook_in", "hook_out"))}
    streams["blocks.1.hook_out"][0, 4] = float("inf")
    with pytest.raises(NonFiniteStreamError, match=r"leaving layer 1 is not finite at sample 0 .*, token 4 \(id 33\)"):
        trace_from_cache(streams, ids)
