"""Our hooks among the user's: who sees what, who has the last word, gradients, two of everything."""

import numpy as np
import pytest
import torch
from helpers import PROMPTS, SlowLac, assert_same_trace, rows_of, shared_model, unchanged

from lacscope import FixedLayers, L2AdaptiveComputation, Recorder, halting, halting_hooks, trace
from lacscope.testing import tiny_model, tiny_transformers_model

RULE = L2AdaptiveComputation(0.6)
IDS = torch.tensor([PROMPTS[0]])


def plus(value):
    def hook(x, hook):
        return x + value

    return hook


def plus_in_place(value):
    def hook(x, hook):
        x += value
        return x

    return hook


def norms(trace, name):
    return trace[name].values[0]


# --- order ----------------------------------------------------------------------------------------------


def test_an_edit_before_ours_at_resid_pre_is_what_we_measure_from():
    model, seen = shared_model(), {}

    def keep(x, hook):
        seen["pre"] = x.clone()

    hooks = [("blocks.2.hook_resid_pre", plus(3.0)), ("blocks.2.hook_resid_pre", keep)]
    traced = trace(model, [PROMPTS[0]], fwd_hooks=hooks)
    np.testing.assert_allclose(norms(traced, "resid_pre_norm")[2], seen["pre"][0].norm(dim=-1), rtol=1e-6)
    plain = trace(model, [PROMPTS[0]])
    # The layer before keeps what it left: nobody edited there.
    np.testing.assert_allclose(norms(traced, "resid_post_norm")[1], norms(plain, "resid_post_norm")[1], rtol=1e-6)


def test_an_edit_before_ours_at_resid_post_belongs_to_the_candidate():
    model = shared_model()
    traced = trace(model, [PROMPTS[0]], fwd_hooks=[("blocks.1.hook_resid_post", plus(3.0))])
    _, cache = model.run_with_cache(IDS)
    stream, pre = cache["blocks.1.hook_resid_post"][0] + 3.0, cache["blocks.1.hook_resid_pre"][0]
    np.testing.assert_allclose(norms(traced, "resid_post_norm")[1], stream.norm(dim=-1).detach(), rtol=1e-5)
    delta = (stream.norm(dim=-1) - pre.norm(dim=-1)).detach()
    np.testing.assert_allclose(norms(traced, "delta_norm")[1], delta, rtol=1e-5)
    np.testing.assert_allclose(norms(traced, "resid_pre_norm")[2], stream.norm(dim=-1).detach(), rtol=1e-5)


@pytest.mark.parametrize("edit", [plus(3.0), plus_in_place(3.0)], ids=["new", "in place"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_edit_after_ours_at_resid_post_shows_in_the_next_resid_pre(edit, mode):
    """Also one in place, where the tensor is the same and only its values changed."""
    model = shared_model()
    with mode(), halting(model, RULE, "observe") as recorder:
        model.run_with_hooks(IDS, fwd_hooks=[("blocks.1.hook_resid_post", edit)])
    _, cache = model.run_with_cache(IDS)
    stream = cache["blocks.1.hook_resid_post"][0].detach()
    run = recorder.trace
    np.testing.assert_allclose(norms(run, "resid_post_norm")[1], stream.norm(dim=-1), rtol=1e-5)
    np.testing.assert_allclose(norms(run, "resid_pre_norm")[2], (stream + 3.0).norm(dim=-1), rtol=1e-5)


@pytest.mark.parametrize("edit", [plus(3.0), plus_in_place(3.0)], ids=["new", "in place"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_edit_before_ours_at_the_next_resid_pre_is_seen(edit, mode):
    model = shared_model()
    with mode(), model.hooks(fwd_hooks=[("blocks.2.hook_resid_pre", edit)]), halting(model, RULE, "observe") as r:
        model(IDS)
    _, cache = model.run_with_cache(IDS)
    stream = cache["blocks.1.hook_resid_post"][0].detach()
    np.testing.assert_allclose(norms(r.trace, "resid_pre_norm")[2], (stream + 3.0).norm(dim=-1), rtol=1e-5)


def test_a_later_hook_at_the_same_point_can_undo_our_bypass():
    model, kept = shared_model(), {}

    def keep(x, hook):
        kept["stream"] = x

    def put_back(x, hook):
        return kept["stream"]

    hooks = [
        ("blocks.2.hook_resid_post", keep),
        *halting_hooks(model, FixedLayers([2]), "bypass"),
        ("blocks.2.hook_resid_post", put_back),
    ]
    assert torch.equal(model.run_with_hooks(IDS, fwd_hooks=hooks), model(IDS))


def test_bypass_takes_out_what_an_earlier_hook_added_to_the_block():
    model = shared_model()
    hooks = [("blocks.2.hook_resid_post", plus(3.0)), *halting_hooks(model, FixedLayers([2]), "bypass")]
    expected = model.run_with_hooks(IDS, fwd_hooks=halting_hooks(model, FixedLayers([2]), "bypass"))
    assert torch.equal(model.run_with_hooks(IDS, fwd_hooks=hooks), expected)


def test_steering_before_a_bypassed_block_passes_through_it():
    model = shared_model()
    before = [("blocks.2.hook_resid_pre", plus(0.5)), *halting_hooks(model, FixedLayers([2]), "bypass")]
    after = [*halting_hooks(model, FixedLayers([2]), "bypass"), ("blocks.3.hook_resid_pre", plus(0.5))]
    assert torch.equal(model.run_with_hooks(IDS, fwd_hooks=before), model.run_with_hooks(IDS, fwd_hooks=after))


def test_an_edit_after_ours_at_resid_pre_changes_the_block_and_not_our_measure():
    """Documented order: what is registered later at resid_pre is part of what the block does."""
    model = shared_model()
    plain = trace(model, [PROMPTS[0]])
    with torch.no_grad(), halting(model, None, "observe") as recorder:
        model.run_with_hooks(IDS, fwd_hooks=[("blocks.2.hook_resid_pre", plus(3.0))])
    run = recorder.trace
    np.testing.assert_allclose(norms(run, "resid_pre_norm")[2], norms(plain, "resid_pre_norm")[2], rtol=1e-6)
    assert abs(norms(run, "resid_post_norm")[2] - norms(plain, "resid_post_norm")[2]).max() > 0.1


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_an_edit_at_an_inner_resid_post_is_in_the_readout(layer, order):
    """Every edit at resid_post counts, whoever made it: layers after it are all voids here."""
    model, seen = shared_model(), {}
    voids = list(range(layer + 1, 4))
    ours = halting_hooks(model, FixedLayers(voids), "readout")
    user = [(f"blocks.{layer}.hook_resid_post", plus(0.7))]

    def keep(x, hook):
        seen["stream"] = x

    hooks = user + ours if order == "before" else ours + user
    logits = model.run_with_hooks(IDS, fwd_hooks=[*hooks, (f"blocks.{layer + 1}.hook_resid_pre", keep)])
    plain = tiny_transformers_model()
    expected = plain.lm_head(plain.model.norm(seen["stream"]))
    assert (logits - expected).abs().max() < 1e-5


def test_a_hook_after_ours_on_the_last_resid_post_edits_the_readout():
    model, seen = shared_model(), {}

    def double(x, hook):
        seen["readout"] = x
        return x * 2 + 1

    hooks = [*halting_hooks(model, FixedLayers([2, 3]), "readout"), ("blocks.3.hook_resid_post", double)]
    logits = model.run_with_hooks(IDS, fwd_hooks=hooks)
    _, cache = model.run_with_cache(IDS)
    assert torch.equal(seen["readout"], cache["blocks.1.hook_resid_post"])
    plain = tiny_transformers_model()
    assert (logits - plain.lm_head(plain.model.norm(seen["readout"] * 2 + 1))).abs().max() < 1e-5


def test_the_users_hooks_fire_before_ours_in_trace():
    model, seen = shared_model(), []

    def keep(x, hook):
        seen.append(x.clone())

    trace(model, [PROMPTS[0]], rule=FixedLayers([2]), effect="bypass", fwd_hooks=[("blocks.2.hook_resid_post", keep)])
    _, cache = model.run_with_cache(IDS)
    assert torch.allclose(seen[0], cache["blocks.2.hook_resid_post"], atol=1e-6), "the candidate, not the bypassed"


def test_a_filter_function_and_a_permanent_hook_take_part_in_trace():
    model = tiny_model()
    expected = trace(model, [PROMPTS[0]], fwd_hooks=[("blocks.2.hook_resid_post", plus(0.5))])
    by_filter = trace(model, [PROMPTS[0]], fwd_hooks=[(lambda name: name == "blocks.2.hook_out", plus(0.5))])
    model.add_hook("blocks.2.hook_resid_post", plus(0.5))
    permanent = trace(model, [PROMPTS[0]])
    model.reset_hooks()
    for sample in (by_filter, permanent):
        assert_same_trace(rows_of(sample, 0), rows_of(expected, 0))
    assert not np.allclose(
        norms(expected, "resid_post_norm")[2], norms(trace(model, [PROMPTS[0]]), "resid_post_norm")[2]
    )


def test_inner_hook_points_work_in_trace():
    """trace runs without the inner hook points only where nobody needs them."""
    model, seen = shared_model(), []
    trace(model, [PROMPTS[0]], fwd_hooks=[("blocks.1.attn.hook_pattern", lambda x, hook: seen.append(tuple(x.shape)))])
    assert seen == [(1, 4, 7, 7)]
    with halting(model, RULE, "bypass"):
        model.run_with_hooks(IDS, fwd_hooks=[("blocks.1.hook_mlp_out", lambda x, hook: seen.append(tuple(x.shape)))])
    assert seen[1] == (1, 7, 32)


# --- gradients ------------------------------------------------------------------------------------------


def test_tensors_caught_in_trace_can_be_trained_on():
    caught = []
    trace(
        shared_model(),
        [PROMPTS[0]],
        rule=RULE,
        effect="bypass",
        fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: caught.append(x))],
    )
    probe = torch.nn.Linear(32, 1)
    probe(caught[0]).sum().backward()
    assert probe.weight.grad is not None
    assert not caught[0].is_inference()


@pytest.mark.parametrize("effect", ["bypass", "readout"])
@pytest.mark.parametrize("way", ["halting_hooks", "halting"])
def test_a_gradient_flows_to_a_steering_vector(way, effect):
    model = shared_model()
    vector = torch.zeros(32, requires_grad=True)
    user = [("blocks.1.hook_resid_pre", lambda x, hook: x + vector)]
    rule = FixedLayers([2, 3])
    if way == "halting_hooks":
        logits = model.run_with_hooks(IDS, fwd_hooks=user + halting_hooks(model, rule, effect))
    else:
        with model.hooks(fwd_hooks=user), halting(model, rule, effect):
            logits = model(IDS)
    logits[0, -1, 5].backward()
    plain = tiny_transformers_model()
    other = torch.zeros(32, requires_grad=True)
    _, cache = model.run_with_cache(IDS)
    # Both effects read out block 1: compute it by the plain blocks.
    positions = plain.model.rotary_emb(cache["blocks.1.hook_resid_pre"], torch.arange(7)[None])
    stream = plain.model.layers[1](
        cache["blocks.1.hook_resid_pre"].detach() + other,
        position_embeddings=positions,
        attention_mask=torch.full((7, 7), float("-inf")).triu(1)[None, None],
    )
    stream = stream[0] if isinstance(stream, tuple) else stream
    plain.lm_head(plain.model.norm(stream))[0, -1, 5].backward()
    assert other.grad.abs().max() > 0
    assert torch.allclose(vector.grad, other.grad, atol=1e-5)


def test_a_gradient_flows_to_the_input_embedding_under_lac():
    model = tiny_model()
    embedding = model.original_model.get_input_embeddings().weight
    logits = model.run_with_hooks(IDS, fwd_hooks=halting_hooks(model, RULE, "bypass"))
    logits[0, -1].logsumexp(-1).backward()
    assert embedding.grad is not None
    assert embedding.grad[IDS[0]].abs().sum() > 0


# --- two of everything ----------------------------------------------------------------------------------


def test_two_models_and_two_recorders_at_once_do_not_mix():
    a, b = shared_model("llama"), shared_model("gpt2")
    other = torch.tensor([PROMPTS[3]])
    with halting(a, RULE, "bypass") as first, halting(b, RULE, "readout") as second:
        a(IDS)
        b(other)
        a(IDS[:, :2])
    assert [run.sizes["token"] for run in first.runs] == [7, 2]
    assert [run.sizes["token"] for run in second.runs] == [5]
    assert first.runs[0].attrs["model"] == "tiny-llama"
    assert second.trace.attrs["model"] == "tiny-gpt2"
    expected = trace(b, [PROMPTS[3]], rule=RULE, effect="readout")
    np.testing.assert_array_equal(second.trace.void.values, expected.void.values)


def test_one_model_called_inside_another_ones_hook():
    a, b = shared_model("llama"), shared_model("gpt2")

    def ask(x, hook):
        b(IDS[:, :3])

    with halting(a, RULE, "bypass") as first, halting(b, RULE, "bypass") as second:
        a.run_with_hooks(IDS, fwd_hooks=[("blocks.2.hook_resid_pre", ask)])
    assert first.trace.sizes["token"] == 7
    assert second.trace.sizes["token"] == 3


def test_nested_contexts_on_one_model_both_record_and_both_act():
    model = shared_model()
    with unchanged(model), halting(model, FixedLayers([1]), "bypass") as outer:
        with halting(model, FixedLayers([2]), "bypass") as inner:
            both = model(IDS)
        only_outer = model(IDS)
    one_rule = halting_hooks(model, FixedLayers([1, 2]), "bypass")
    assert torch.equal(both, model.run_with_hooks(IDS, fwd_hooks=one_rule))
    assert torch.equal(
        only_outer, model.run_with_hooks(IDS, fwd_hooks=halting_hooks(model, FixedLayers([1]), "bypass"))
    )
    assert (len(outer.runs), len(inner.runs)) == (2, 1)
    assert outer.runs[0].void.values[0, :, 0].tolist() == [False, True, False, False]
    assert inner.trace.void.values[0, :, 0].tolist() == [False, False, True, False]
    # The outer's hooks come first: it sees what the inner leaves at the next layer.
    np.testing.assert_array_equal(norms(outer.runs[0], "resid_pre_norm")[3], norms(inner.trace, "resid_post_norm")[2])


def test_trace_inside_a_context_is_recorded_by_both():
    model = shared_model()
    expected = trace(model, PROMPTS, rule=FixedLayers([1]), effect="bypass", max_new_tokens=4)
    with unchanged(model), halting(model, FixedLayers([1]), "bypass") as recorder:
        traced = trace(model, PROMPTS, max_new_tokens=4)
    run = recorder.trace
    order = np.argsort([len(prompt) for prompt in PROMPTS], kind="stable")  # how trace batches them
    for row, sample in enumerate(order):
        rows, recorded, wanted = rows_of(traced, sample), rows_of(run, row), rows_of(expected, sample)
        assert rows.token_id.values.tolist() == wanted.token_id.values.tolist()
        assert recorded.token_id.values.tolist() == wanted.token_id.values.tolist()
        np.testing.assert_array_equal(recorded.void.values, wanted.void.values)


def test_plain_hooks_inside_a_context():
    model, recorder = shared_model(), Recorder()
    hooks = halting_hooks(model, FixedLayers([2]), "bypass", recorder=recorder)
    with unchanged(model), halting(model, FixedLayers([1]), "bypass") as outer:
        logits = model.run_with_hooks(IDS, fwd_hooks=hooks)
    expected = model.run_with_hooks(IDS, fwd_hooks=halting_hooks(model, FixedLayers([1, 2]), "bypass"))
    assert torch.equal(logits, expected)
    assert (len(outer.runs), len(recorder.runs)) == (1, 1)


def test_a_context_inside_the_users_hooks_context_and_the_reverse():
    model = shared_model()
    user = [("blocks.1.hook_mlp_out", plus(0.3))]
    with unchanged(model):
        with model.hooks(fwd_hooks=user), halting(model, RULE, "bypass") as first:
            a = model(IDS)
        with halting(model, RULE, "bypass") as second:
            with model.hooks(fwd_hooks=user):
                b = model(IDS)
            c = model(IDS)
    assert torch.equal(a, b)
    assert not torch.equal(b, c), "the user's hook is gone, ours still acts"
    assert first.trace.equals(second.runs[0])


def test_lac_sees_a_users_steering_as_the_model_would_have_it():
    """Against the slow implementation on a plain model whose embedding was moved instead."""
    moved = tiny_transformers_model()
    with torch.no_grad():
        moved.model.embed_tokens.weight += 0.2
    slow = SlowLac(moved, 0.6, "bypass")
    slow.generate(PROMPTS[0], 1)
    traced = trace(
        shared_model(), [PROMPTS[0]], rule=RULE, effect="bypass", fwd_hooks=[("blocks.0.hook_resid_pre", plus(0.2))]
    )
    np.testing.assert_array_equal(traced.void.values[0], slow.array("void"))
    np.testing.assert_allclose(norms(traced, "resid_pre_norm"), slow.array("pre"), rtol=1e-5)
