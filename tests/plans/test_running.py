"""Plans at work, against plain transformers models with their lists of blocks rebuilt."""

import functools

import pytest
import torch
from helpers import PROMPTS, left_padded, shared_model, unchanged
from rebuilt import MeanOf, greedy, logits_of, options_of, rebuilt

from lacscope import FixedLayers, PartialPassError, halting
from lacscope.models.adapters import adapt
from lacscope.plans import Plan, PlanError, plan
from lacscope.testing import ARCHITECTURES, tiny_model

ARCHS = sorted(ARCHITECTURES)
IDS, MASK = left_padded(PROMPTS)
PLANS = {
    "skip": (Plan.skip(4, [0, 2]), [1, 3]),
    "last skipped": (Plan.skip(4, [3]), [0, 1, 2]),
    "repeat": (Plan.repeat(4, [1, 2]), [0, 1, 2, 1, 2, 3]),
    "middle_repeat": (Plan.middle_repeat(4, 0), [0, 2, 2, 2]),
    "reverse": (Plan.reverse(4, range(4)), [3, 2, 1, 0]),
    "shuffle": (Plan.shuffle(4, range(1, 4), seed=1), list(Plan.shuffle(4, range(1, 4), seed=1).order)),
    "swap": (Plan.swap(4, 2), [0, 1, 3, 2]),
    "parallel": (Plan.parallel(4, [1, 2]), [0, (1, 2), 3]),
    "looped_parallel": (Plan.looped_parallel(4, [1, 2, 3], times=2), [0, (1, 2, 3), (1, 2, 3)]),
}


@functools.cache
def warm(architecture="llama", hooks="full"):
    """A shared model that ran a plan before: the first time TransformerLens wires hooks, and we look at the model."""
    model = shared_model(architecture, hooks)
    with plan(model, Plan.full(4)), torch.no_grad():
        model.run_with_cache(IDS[:1])
    return model


def bridge(architecture, hooks):
    return tiny_model(architecture, hooks=hooks, **options_of(architecture))


def close(a, b):
    return float((a - b).abs().max()) < 1e-5 * max(1.0, float(b.abs().max()))


@torch.no_grad()
def stepped(model, ids, mask, n=8):
    """lacscope's own loop: greedy tokens, and the logits of each step."""
    adapter, tokens, found = adapt(model), [], []
    logits, cache = adapter.step(ids, mask.bool(), None, use_cache=True, keep=1)
    for _ in range(n):
        found.append(logits[:, -1])
        tokens.append(logits[:, -1].argmax(-1, keepdim=True))
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        logits, cache = adapter.step(tokens[-1], mask.bool(), cache, use_cache=True, keep=1)
    return torch.cat(tokens, dim=1), torch.stack(found, dim=1)


@pytest.mark.parametrize("hooks", ["full", "residual"])
@pytest.mark.parametrize("case", PLANS)
def test_logits_and_generation_are_the_rebuilt_models(case, hooks):
    given, slots = PLANS[case]
    model, reference = warm("llama", hooks), rebuilt("llama", slots)
    wanted, tokens = logits_of(reference, IDS, MASK), greedy(reference, IDS, MASK)
    one = torch.tensor([PROMPTS[0]])
    with unchanged(model), plan(model, given), torch.no_grad():
        assert close(model(IDS, attention_mask=MASK)[MASK.bool()], wanted)
        assert close(model.run_with_cache(IDS, attention_mask=MASK)[0][MASK.bool()], wanted)
        assert greedy(model.original_model, IDS, MASK) == tokens
        assert stepped(model, IDS, MASK)[0].tolist() == tokens
        made = model.generate(one, max_new_tokens=8, do_sample=False, stop_at_eos=False, verbose=False)
        assert made[:, one.shape[1] :].tolist() == greedy(reference, one, torch.ones_like(one))


@pytest.mark.parametrize("case", PLANS)
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2"])
def test_cached_equals_uncached(architecture, case):
    """Each step's logits are those of one pass over all that was read, in a left-padded batch too."""
    model = bridge(architecture, "residual")
    with plan(model, PLANS[case][0]), torch.no_grad():
        tokens, cached = stepped(model, IDS, MASK, n=6)
        ids, mask = torch.cat([IDS, tokens], dim=1), torch.cat([MASK, torch.ones_like(tokens)], dim=1)
        at_once = model(ids, attention_mask=mask)[:, IDS.shape[1] - 1 : -1]
    assert close(cached, at_once)


@pytest.mark.parametrize("case", ["skip", "reverse", "looped_parallel"])
@pytest.mark.parametrize("architecture", ARCHS)
def test_every_architecture(architecture, case):
    """Each block keeps its own kind of attention (window, rotary base) wherever it stands."""
    given, slots = PLANS[case]
    model, reference = bridge(architecture, "residual"), rebuilt(architecture, slots, **options_of(architecture))
    # The plain model hands the first block's kind of mask to all blocks of a mean: there kinds must agree.
    mixed = len(set(getattr(reference.config, "layer_types", None) or [""])) > 1
    if mixed and any(isinstance(m, MeanOf) for m in reference.modules()):
        pytest.skip("the rebuilt model cannot give the blocks of a mean masks of their own")
    with plan(model, given), torch.no_grad():
        assert close(model(IDS, attention_mask=MASK)[MASK.bool()], logits_of(reference, IDS, MASK))
        assert greedy(model.original_model, IDS, MASK) == greedy(reference, IDS, MASK)


@pytest.mark.parametrize("architecture", ARCHS)
def test_every_architecture_with_all_hook_points(architecture):
    model = bridge(architecture, "full")
    reference = rebuilt(architecture, [1, 3, 2], **options_of(architecture))
    with plan(model, Plan.of(4, [1, 3, 2])), torch.no_grad():
        assert close(model(IDS, attention_mask=MASK)[MASK.bool()], logits_of(reference, IDS, MASK))
        assert greedy(model.original_model, IDS, MASK) == greedy(reference, IDS, MASK)


def test_a_mean_of_blocks_by_hand():
    """One block at a time on plain transformers, averaged in a loop."""
    from lacscope.testing import tiny_transformers_model

    plain = tiny_transformers_model("llama")
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        h = plain.model.embed_tokens(ids)
        position = torch.arange(ids.shape[1]).unsqueeze(0)
        mask = torch.full((1, 1, ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        given = {
            "position_ids": position,
            "attention_mask": mask,
            "position_embeddings": plain.model.rotary_emb(h, position_ids=position),
        }
        h = plain.model.layers[0](h, **given)
        for _ in range(2):
            h = sum(plain.model.layers[block](h, **given) for block in (1, 2)) / 2
        h = plain.model.layers[3](h, **given)
        wanted = plain.lm_head(plain.model.norm(h))
    model = warm("llama")
    with plan(model, Plan.looped_parallel(4, [1, 2], times=2)), torch.no_grad():
        assert close(model(ids), wanted)


@pytest.mark.parametrize("layers", [[0], [3], [1, 2], [0, 2, 3]])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "falcon"])
def test_a_skip_has_the_logits_of_bypass_and_does_not_run_the_blocks(architecture, layers):
    model = warm(architecture)
    ran = []
    handles = [
        block.original_component.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(model.blocks)
    ]
    try:
        with halting(model, FixedLayers(layers), "bypass", attention_mask=MASK), torch.no_grad():
            bypassed = stepped(model, IDS, MASK, n=4)
        ran.clear()
        with plan(model, Plan.skip(4, layers)), torch.no_grad():
            skipped = stepped(model, IDS, MASK, n=4)
    finally:
        for handle in handles:
            handle.remove()
    assert torch.equal(bypassed[1], skipped[1])
    assert ran == [layer for layer in range(4) if layer not in layers] * 5


# --- hooks ----------------------------------------------------------------------------------------------


def fired(model, given):
    names = []
    hooks = [
        (f"blocks.{layer}.{point}", lambda x, hook, name=f"{layer}.{point}": names.append(name))
        for layer in range(4)
        for point in ("hook_resid_pre", "hook_attn_out", "hook_resid_post")
    ]
    with plan(model, given), torch.no_grad():
        model.run_with_hooks(IDS[:1], fwd_hooks=hooks)
    return names


def run_of(layer):
    return [f"{layer}.hook_resid_pre", f"{layer}.hook_attn_out", f"{layer}.hook_resid_post"]


def test_hooks_fire_once_a_run_under_the_blocks_own_names():
    model = warm("llama")
    assert fired(model, Plan.of(4, [0, 2, 1, 1, 3])) == [n for layer in (0, 2, 1, 1, 3) for n in run_of(layer)]
    assert fired(model, Plan.parallel(4, [1, 2])) == [n for layer in (0, 1, 2, 3) for n in run_of(layer)]


def test_the_residual_hooks_of_a_skipped_block_fire_in_its_place():
    passed_by = ["2.hook_resid_pre", "2.hook_resid_post"]
    assert fired(warm("llama"), Plan.skip(4, [2])) == run_of(0) + run_of(1) + passed_by + run_of(3)


def test_a_block_without_a_place_fires_nothing():
    assert fired(warm("llama"), Plan.of(4, [3, 0])) == run_of(3) + run_of(0)


def test_edits_by_hooks_count_in_every_run():
    """A steering vector at a block that runs twice is added twice."""
    model, ids = warm("llama"), torch.tensor([PROMPTS[0]])
    reference = rebuilt("llama", [0, 1, 1, 2, 3])
    vector = torch.linspace(-1, 1, 32)
    handles = [reference.model.layers[i].register_forward_hook(lambda m, a, out: out + vector) for i in (1, 2)]
    wanted = logits_of(reference, ids, torch.ones_like(ids))
    for handle in handles:
        handle.remove()
    steer = [("blocks.1.hook_resid_post", lambda x, hook: x + vector)]
    with plan(model, Plan.repeat(4, [1])), torch.no_grad():
        assert close(model.run_with_hooks(ids, fwd_hooks=steer)[0], wanted)


def test_an_edit_at_a_skipped_block_counts():
    model, ids = warm("llama"), IDS[:1]
    with plan(model, Plan.skip(4, [1])), torch.no_grad():
        edited = model.run_with_hooks(ids, fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: 2 * x)])
        same = model.run_with_hooks(ids, fwd_hooks=[("blocks.2.hook_resid_pre", lambda x, hook: 2 * x)])
        assert torch.equal(edited, same)
        assert not torch.equal(edited, model(ids))


def test_an_edit_in_place_reaches_no_other_block_of_its_slot():
    model, ids = warm("llama"), IDS[:1]

    def edited(hook):
        with plan(model, Plan.parallel(4, [1, 2])), torch.no_grad():
            return model.run_with_hooks(ids, fwd_hooks=[("blocks.1.hook_resid_pre", hook)])

    assert torch.equal(edited(lambda x, hook: x.mul_(3)), edited(lambda x, hook: 3 * x))


def test_run_with_cache_keeps_the_last_run_of_a_name():
    model, ids = warm("llama"), IDS[:1]
    with plan(model, Plan.repeat(4, [1])), torch.no_grad():
        _, cache = model.run_with_cache(ids)
    assert torch.equal(cache["blocks.1.hook_resid_post"], cache["blocks.2.hook_resid_pre"])
    assert not torch.equal(cache["blocks.1.hook_resid_pre"], cache["blocks.0.hook_resid_post"])


def test_a_call_from_inside_a_hook_is_a_pass_of_its_own():
    model, ids = warm("llama"), torch.tensor([PROMPTS[0]])
    inner = []

    def again(activation, hook):
        if not inner:
            inner.append(None)
            inner[0] = model(ids[:, :3])

    with plan(model, Plan.swap(4, 1)), torch.no_grad():
        wanted, short = model(ids), model(ids[:, :3])
        assert torch.equal(model.run_with_hooks(ids, fwd_hooks=[("blocks.2.hook_resid_pre", again)]), wanted)
    assert torch.equal(inner[0], short)


def test_a_block_called_by_hand_runs_as_it_is():
    model, ids = warm("llama"), torch.tensor([PROMPTS[0]])
    called, stream = [], torch.randn(1, len(PROMPTS[0]), 32, generator=torch.Generator().manual_seed(0))
    kwargs = {}

    def by_hand(layer):
        found = model.blocks[layer](stream, **kwargs)
        return found[0] if isinstance(found, tuple) else found

    def in_a_hook(activation, hook):
        if not called:
            called.append(None)
            called[0] = [by_hand(layer) for layer in range(4)]

    with torch.no_grad():
        look = model.blocks[0].original_component.register_forward_pre_hook(
            lambda module, args, given: kwargs.update(position_embeddings=given["position_embeddings"]),
            with_kwargs=True,
        )
        model(ids)
        look.remove()
        wanted = [by_hand(layer) for layer in range(4)]
        with plan(model, Plan.swap(4, 1)):
            assert all(torch.equal(by_hand(layer), one) for layer, one in enumerate(wanted))
            logits = model(ids)
            hooked = model.run_with_hooks(ids, fwd_hooks=[("blocks.2.hook_resid_pre", in_a_hook)])
    assert torch.equal(hooked, logits)
    assert all(torch.equal(one, other) for one, other in zip(called[0], wanted, strict=True))


def test_the_model_inside_the_model_runs_the_plan_too():
    model, ids = warm("llama"), torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        with plan(model, Plan.skip(4, [1])):
            wanted = model(ids)
            inside = model.original_model.model(input_ids=ids).last_hidden_state
            assert close(model.original_model.lm_head(inside), wanted)
        assert not close(model(ids), wanted)


def test_gradients_flow_through_the_plan():
    model, reference = tiny_model("llama"), rebuilt("llama", [0, (1, 2), 3])
    ids = torch.tensor([PROMPTS[0]])
    reference(ids).logits.square().mean().backward()
    with plan(model, Plan.parallel(4, [1, 2])):
        model(ids).square().mean().backward()
    wanted = reference.model.embed_tokens.weight.grad
    assert torch.allclose(model.original_model.get_input_embeddings().weight.grad, wanted, atol=1e-5)


# --- leaving, and what is refused ---------------------------------------------------------------------


class Boom(Exception):
    pass


@pytest.mark.parametrize("hooks", ["full", "residual"])
def test_the_model_is_as_it_was_also_after_exceptions(hooks):
    model, ids = warm("llama", hooks), IDS[:1]
    with torch.no_grad():
        before = model(ids)
    with unchanged(model), pytest.raises(Boom), plan(model, Plan.swap(4, 1)):
        raise Boom

    def burst(activation, hook):
        raise Boom

    with unchanged(model), plan(model, Plan.reverse(4, range(4))), torch.no_grad():
        wanted = model(ids)
        with pytest.raises(Boom):
            model.run_with_hooks(ids, fwd_hooks=[("blocks.2.hook_resid_post", burst)])
        assert torch.equal(model(ids), wanted), "a pass that broke off leaves nothing behind"
    with torch.no_grad():
        assert torch.equal(model(ids), before)


def test_contexts_may_close_in_any_order():
    model, ids = warm("llama"), IDS[:1]
    with torch.no_grad(), unchanged(model):
        before = model(ids)
        outer, inner = plan(model, Plan.swap(4, 1)), halting(model, FixedLayers([1]), "bypass")
        outer.__enter__()
        inner.__enter__()
        outer.__exit__(None, None, None)
        bypassed = model(ids)
        inner.__exit__(None, None, None)
        assert torch.equal(model(ids), before)
    assert not torch.equal(bypassed, before)


def test_plans_do_not_nest():
    model = warm("llama")
    with unchanged(model), plan(model, Plan.swap(4, 1)), torch.no_grad():
        with pytest.raises(RuntimeError, match=r"already runs under the plan .*0, 2, 1, 3.*change\(plan\)"):
            plan(model, Plan.full(4)).__enter__()
        assert close(model(IDS[:1])[0], logits_of(rebuilt("llama", [0, 2, 1, 3]), IDS[:1], torch.ones_like(IDS[:1])))


def test_a_plan_of_another_depth_is_refused():
    with pytest.raises(PlanError, match="the plan is one of 5 layers, tiny-llama has 4"):
        plan(warm("llama"), Plan.full(5)).__enter__()


def test_what_is_no_plan_is_refused(unchecked):
    model = warm("llama")
    with unchanged(model):
        for given in ([0, 2, 3], None):
            with pytest.raises(TypeError, match=r"a plan is a lacscope.Plan, such as Plan.skip\(30, \[3\]\); got"):
                plan(model, given).__enter__()


def test_partial_passes_are_refused():
    model = warm("llama")
    with plan(model, Plan.swap(4, 1)), torch.no_grad():
        for stop in (lambda: model(IDS[:1], stop_at_layer=2), lambda: model.run_with_cache(IDS[:1], stop_at_layer=2)):
            with pytest.raises(PartialPassError, match=r"stop_at_layer runs a part of the model.*no plan"):
                stop()


def test_forwards_replaced_inside_the_plan_are_noticed():
    model = warm("llama")
    block = model.blocks[1]
    with unchanged(model), plan(model, Plan.swap(4, 1)), torch.no_grad():
        ours = block.__dict__["forward"]
        block.__dict__["forward"] = lambda stream, *args, **kwargs: stream
        try:
            with pytest.raises(PlanError, match="3 of 4 blocks were called: something inside the plan's context"):
                model(IDS[:1])
        finally:
            block.__dict__["forward"] = ours


def test_a_model_whose_blocks_cannot_be_reordered_is_refused(monkeypatch):
    from lacscope import UnsupportedModelError
    from lacscope.models._checks import StreamReport
    from lacscope.plans import _running as running

    model = warm("llama")
    monkeypatch.setattr(model.original_model.config, "num_kv_shared_layers", 2, raising=False)
    with pytest.raises(UnsupportedModelError, match="its last 2 layers use the keys and values of earlier ones"):
        plan(model, Plan.full(4)).__enter__()
    monkeypatch.setattr(running, "check_stream", lambda adapter: StreamReport(False, False, "the streams part"))
    with pytest.raises(UnsupportedModelError, match="tiny-llama cannot run in another order: the streams part"):
        plan(model, Plan.full(4)).__enter__()
