"""Rules and traces under a plan: 'earlier' is executed earlier, and a skipped layer is no part of any history."""

import json

import numpy as np
import pytest
import torch
from helpers import PROMPTS, assert_same_trace, bridge_of, left_padded, rows_of, shared_model, without_layers
from rebuilt import rebuilt

from lacscope import (
    FixedLayers,
    GivenVoids,
    L2AdaptiveComputation,
    TraceError,
    freeze,
    halting,
    halting_hooks,
    layer_usage,
    trace,
    trace_from_cache,
    voids,
)
from lacscope.plans import Plan, plan
from lacscope.rules import PromptDecided, Scope
from lacscope.tracing._recorder import Recorder

RULE = L2AdaptiveComputation(0.6)
ORDER = [0, 3, 2, 2, 1]
IDS, MASK = left_padded(PROMPTS)


@pytest.mark.parametrize("effect", ["observe", "bypass", "readout"])
def test_a_trace_under_another_order_is_the_rebuilt_models(effect):
    """Rows are runs in the order of execution; the attribute says which block each is."""
    options = {"rule": RULE, "effect": effect, "max_new_tokens": 5, "logits": "all"}
    wanted = trace(bridge_of(rebuilt("llama", ORDER)), PROMPTS, **options)
    with plan(shared_model("llama"), Plan.of(4, ORDER)):
        found = trace(shared_model("llama"), PROMPTS, **options)
    assert json.loads(found.attrs["plan"])["blocks"] == ORDER
    assert found.sizes["layer"] == 5
    for sample in range(len(PROMPTS)):
        assert_same_trace(rows_of(found, sample), rows_of(wanted, sample))
        np.testing.assert_allclose(rows_of(found, sample).logits, rows_of(wanted, sample).logits, atol=1e-5)
    if effect == "observe":
        np.testing.assert_array_equal(voids(found, 0.6), found.void)


@pytest.mark.parametrize("hooks", ["full", "residual"])
@pytest.mark.parametrize("effect", ["observe", "bypass", "readout"])
def test_a_trace_of_a_skip_shows_the_skipped_layers_as_voids(effect, hooks):
    """The other rows are those of the model without the layers: these have no part in their history."""
    options = {"rule": RULE, "effect": effect, "max_new_tokens": 5}
    model, kept = shared_model("llama", hooks, 6), [1, 2, 4, 5]
    wanted = trace(bridge_of(without_layers("llama", {0, 3}, n_layers=6)), PROMPTS, **options)
    with plan(model, Plan.skip(6, [0, 3])):
        found = trace(model, PROMPTS, **options)
    for sample in range(len(PROMPTS)):
        mine = rows_of(found, sample)
        assert_same_trace(mine.isel(layer=kept).assign_coords(layer=range(4)), rows_of(wanted, sample))
        assert mine.void.sel(layer=[0, 3]).all()
        assert not mine.update_norm.sel(layer=[0, 3]).any()
    assert layer_usage(found).sel(layer=[0, 3]).max() == 0
    with pytest.raises(TraceError, match=r"plan \[1-2, 4-5\], which skips layers \[0, 3\]: they have no part"):
        voids(found, 0.6)


def test_sublayer_rules_and_measures_under_a_skip():
    options = {"rule": L2AdaptiveComputation(0.6, unit="attn"), "measures": ["attn_out_norm", "cos_pre_post"]}
    wanted = trace(bridge_of(without_layers("llama", {1}), "full"), PROMPTS, **options)
    with plan(shared_model("llama"), Plan.skip(4, [1])):
        found = trace(shared_model("llama"), PROMPTS, **options)
    kept = found.isel(layer=[0, 2, 3])
    np.testing.assert_allclose(kept.attn_out_norm.values, wanted.attn_out_norm.values, rtol=1e-5)
    np.testing.assert_array_equal(kept.void.values, wanted.void.values)
    assert not np.nanmax(found.attn_out_norm.sel(layer=1).values)
    np.testing.assert_allclose(rows_of(found, 0).cos_pre_post.sel(layer=1).values, 1, rtol=1e-6)


@pytest.mark.parametrize("outer", ["plan", "halting"])
def test_halting_inside_and_outside_a_plan(outer):
    model = shared_model("llama")
    wanted = trace(bridge_of(rebuilt("llama", ORDER)), [PROMPTS[0]], rule=RULE, effect="bypass", max_new_tokens=4)
    ids = torch.tensor([PROMPTS[0]])

    def generate():
        model.generate(ids, max_new_tokens=4, do_sample=False, stop_at_eos=False, verbose=False)

    if outer == "plan":
        with plan(model, Plan.of(4, ORDER)), halting(model, RULE, "bypass") as recorder:
            generate()
    else:
        with halting(model, RULE, "bypass") as recorder, plan(model, Plan.of(4, ORDER)):
            generate()
    found = recorder.trace
    np.testing.assert_allclose(found.delta_norm.values, wanted.delta_norm.values, atol=1e-4)
    np.testing.assert_array_equal(found.void.values, wanted.void.values)
    assert json.loads(found.attrs["plan"])["blocks"] == ORDER


def test_plain_hooks_under_a_plan():
    model, recorder = shared_model("llama"), Recorder()
    hooks = halting_hooks(model, RULE, "bypass", recorder=recorder)
    wanted = trace(bridge_of(rebuilt("llama", [1, 0, 0])), [PROMPTS[0]], rule=RULE, effect="bypass", logits="all")
    with plan(model, Plan.of(4, [1, 0, 0])), torch.no_grad():
        logits = model.run_with_hooks(torch.tensor([PROMPTS[0]]), fwd_hooks=hooks)
    np.testing.assert_allclose(logits[0], wanted.logits.values[0], atol=1e-5)
    np.testing.assert_array_equal(recorder.trace.void.values, wanted.void.values)


def test_a_fixed_layer_is_a_block_wherever_it_stands():
    model, ids = shared_model("llama"), torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        with plan(model, Plan.of(4, [0, 2, 1, 1, 3])), halting(model, FixedLayers([1]), "bypass"):
            bypassed = model(ids)
        with plan(model, Plan.of(4, [0, 2, 3])):
            assert torch.equal(model(ids), bypassed)


@pytest.mark.parametrize("decode", [None, Plan.parallel(4, [1, 2])])
def test_parallel_slots_refuse_rules_and_traces(decode):
    model = shared_model("llama")
    first = Plan.parallel(4, [1, 2]) if decode is None else Plan.looped_parallel(4, [1, 2], times=2)
    with plan(model, first, decode=decode):
        with pytest.raises(ValueError, match=r"several blocks read one stream: none of them is earlier"):
            trace(model, PROMPTS, rule=RULE)
        with halting(model, RULE, "bypass"), pytest.raises(ValueError, match=r"plan .*mean\(1-2\)"):
            model(IDS[:1])


def test_decode_that_skips_more_keeps_one_run():
    model = shared_model("llama")
    with plan(model, Plan.full(4), decode=Plan.skip(4, [0, 2])):
        found = trace(model, [PROMPTS[0]], rule=RULE, max_new_tokens=5)
    rows = rows_of(found, 0)
    skipped = rows.update_norm.sel(layer=[0, 2])
    assert (skipped.values[:, rows.phase.values == "prefill"] > 0).all()
    assert (skipped.values[:, rows.phase.values == "decode"] == 0).all()
    assert json.loads(found.attrs["plan"])["decode"] == "1, 3"


@pytest.mark.parametrize(
    ("first", "decode", "rows"),
    [
        (Plan.reverse(4, range(4)), Plan.of(4, [3, 1]), r"\[3, 1\] and the run began with \[3, 2, 1, 0\]"),
        # As many rows, of other blocks.
        (Plan.swap(4, 1), Plan.skip(4, [1]), r"\[0, 1, 2, 3\] and the run began with \[0, 2, 1, 3\]"),
    ],
)
def test_a_run_whose_rows_would_change_is_refused(first, decode, rows):
    model = shared_model("llama")
    with (
        plan(model, first, decode=decode),
        pytest.raises(ValueError, match=f"this pass executed the blocks {rows}: the plan changed on the way"),
    ):
        trace(model, [PROMPTS[0]], max_new_tokens=4)


def decode_step(model, cache):
    return model.original_model(input_ids=torch.tensor([[7]]), past_key_values=cache, use_cache=True)


@pytest.mark.parametrize("taken_up", ["after prefill", "by a change"])
def test_a_plan_taken_up_after_prefill_is_in_the_trace(taken_up):
    model, ids, skip = shared_model("llama"), torch.tensor([PROMPTS[0]]), Plan.skip(4, [1, 2])
    with torch.no_grad(), halting(model, RULE, "observe") as recorder:
        if taken_up == "after prefill":
            cache = model.original_model(input_ids=ids, use_cache=True).past_key_values
            with plan(model, skip):
                decode_step(model, cache)
        else:
            with plan(model, Plan.full(4)) as running:
                cache = model.original_model(input_ids=ids, use_cache=True).past_key_values
                running.change(skip)
                decode_step(model, cache)
    found = recorder.trace
    assert json.loads(found.attrs["plan"]) == {"plan": "0-3", "blocks": [0, 1, 2, 3], "idle": [1, 2], "decode": "0, 3"}
    with pytest.raises(TraceError, match=r"which skips layers \[1, 2\]"):
        voids(found, 0.8)
    with pytest.raises(ValueError, match="made under the plan"):
        freeze(found, alpha=0.8, phase="decode", skip=1)


def test_hooks_made_outside_a_plan_record_the_plan_of_their_pass():
    model, recorder = shared_model("llama"), Recorder()
    hooks = halting_hooks(model, RULE, "observe", recorder=recorder)
    with torch.no_grad():
        model.run_with_hooks(torch.tensor([PROMPTS[0]]), fwd_hooks=hooks)
        with plan(model, Plan.skip(4, [1])):
            model.run_with_hooks(torch.tensor([PROMPTS[0]]), fwd_hooks=hooks)
    plain, skipped = recorder.runs
    assert "plan" not in plain.attrs
    assert json.loads(skipped.attrs["plan"])["idle"] == [1]


def test_a_plan_left_before_the_pass_is_not_in_the_trace():
    model = shared_model("llama")
    outer, inner = plan(model, Plan.skip(4, [1])), halting(model, RULE, "observe")
    outer.__enter__()
    recorder = inner.__enter__()
    outer.__exit__(None, None, None)
    with torch.no_grad():
        model(torch.tensor([PROMPTS[0]]))
    inner.__exit__(None, None, None)
    assert "plan" not in recorder.trace.attrs


def test_thresholds_under_a_skip_are_refused():
    model = shared_model("llama")
    with plan(model, Plan.skip(4, [1])), pytest.raises(ValueError, match=r"'threshold' under the plan \[0, 2-3\]"):
        trace(model, [PROMPTS[0]], rule=RULE, measures=["threshold"])
    with plan(model, Plan.swap(4, 1)):
        found = trace(model, [PROMPTS[0]], rule=RULE, measures=["threshold"])
    rows = rows_of(found, 0)
    assert bool(((rows.delta_norm < rows.threshold) == rows.void).all())


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 1, 1, 2], ORDER])
def test_voids_replayed_under_another_order_are_those_of_its_runs(order):
    model = shared_model("llama")
    with plan(model, Plan.of(4, order)):
        recorded = trace(model, PROMPTS, rule=RULE, effect="bypass")
        assert 0 < float(recorded.void.mean()) < 1
        replayed = trace(model, PROMPTS, rule=GivenVoids.of(recorded.void), effect="bypass")
    np.testing.assert_array_equal(replayed.void, recorded.void)
    np.testing.assert_allclose(replayed.delta_norm, recorded.delta_norm, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("under", [Plan.skip(4, [1]), Plan.of(4, [0, 1, 1, 3])])
def test_what_the_prompt_decides_under_a_plan_is_of_the_layers_that_run(under):
    model = shared_model("llama")
    rule = PromptDecided(skip=1, scope=Scope(phase="decode", protect=(0,)))
    with plan(model, under):
        found = rows_of(trace(model, [PROMPTS[0]], rule=rule, effect="bypass", max_new_tokens=4), 0)
    decode = found.void.values[:, found.phase.values == "decode"]
    running = [row for row, block in enumerate(json.loads(found.attrs["plan"])["blocks"]) if block in under.order]
    blocks = np.array(json.loads(found.attrs["plan"])["blocks"])[running]
    assert len({block for block, void in zip(blocks, decode[running], strict=True) if void.all()}) == 1


def test_a_cache_of_another_order_is_no_trace():
    model, ids = shared_model("llama"), torch.tensor([PROMPTS[0]])
    with torch.no_grad(), plan(model, Plan.skip(4, [1])):
        _, cache = model.run_with_cache(ids)
        assert json.loads(trace_from_cache(cache, ids).attrs["plan"])["idle"] == [1]
    with torch.no_grad(), plan(model, Plan.swap(4, 1)):
        _, cache = model.run_with_cache(ids)
        with pytest.raises(ValueError, match=r"\[0, 2, 1, 3\], which does more than skip: a cache has one stream"):
            trace_from_cache(cache, ids)
