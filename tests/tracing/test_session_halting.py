"""halting around anything that runs the model: which passes make a run, which tokens are whose."""

import warnings

import numpy as np
import pytest
import torch
from helpers import PROMPTS, assert_same_trace, left_padded, rows_of, shared_model, unchanged

from lacscope import FixedLayers, L2AdaptiveComputation, PaddingWarning, PartialPassError, RunWarning, halting, trace
from lacscope.rules import Scope

RULE = L2AdaptiveComputation(0.6)
IDS = torch.tensor([PROMPTS[0]])
GREEDY = {"do_sample": False, "verbose": False, "return_type": "tokens"}


def cached_steps(model, chunks, **first):
    """Read token chunks one after the other with one cache."""
    cache, extra = None, first
    with torch.no_grad():
        for chunk in chunks:
            options = {"past_key_values": cache} if cache is not None else extra
            _, cache = model(torch.tensor(chunk), return_type="logits_and_cache", use_cache=True, **options)
    return cache


# --- every way to run a model ---------------------------------------------------------------------------


def by_generate(model):
    return model.generate(IDS, max_new_tokens=5, **GREEDY)


def by_generate_stream(model):
    return torch.cat(list(model.generate_stream(IDS, max_new_tokens=5, max_tokens_per_yield=2, **GREEDY)), dim=-1)


def by_transformers(model):
    return model.original_model.generate(
        IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=5, do_sample=False, pad_token_id=0
    )


@pytest.mark.parametrize("effect", ["observe", "bypass", "readout"])
@pytest.mark.parametrize("generate", [by_generate, by_generate_stream, by_transformers])
@pytest.mark.parametrize("hooks", ["full", "residual"])
def test_generation_is_one_run_and_equals_trace(generate, effect, hooks):
    model = shared_model("llama", hooks)
    expected = trace(model, [PROMPTS[0]], rule=RULE, effect=effect, max_new_tokens=5)
    with unchanged(model), halting(model, RULE, effect) as recorder:
        generate(model)
    rows, wanted = rows_of(recorder.trace, 0), rows_of(expected, 0)
    # The token sampled last is seen by trace alone: nothing reads it.
    produced = wanted.next_token_id.values.copy()
    produced[-1] = -1
    assert_same_trace(rows, wanted.assign_coords(next_token_id=("token", produced)))


def test_hf_generate_with_a_tokenizer(tiny_with_tokenizer):
    model = tiny_with_tokenizer
    with halting(model, RULE, "readout") as recorder:
        model.hf_generate(IDS, max_new_tokens=4, do_sample=False)
    expected = trace(model, [PROMPTS[0]], rule=RULE, effect="readout", max_new_tokens=4)
    assert rows_of(recorder.trace, 0).token_id.values.tolist() == rows_of(expected, 0).token_id.values.tolist()
    assert recorder.trace.token_text.values[0, 0] == "river", "texts come from the model's tokenizer"


@pytest.mark.parametrize("effect", ["observe", "bypass", "readout"])
def test_forward_run_with_hooks_and_run_with_cache_are_recorded_alike(effect):
    model = shared_model()
    with halting(model, RULE, effect) as recorder:
        logits = model(IDS)
        assert torch.equal(model.run_with_hooks(IDS), logits)
        cached, cache = model.run_with_cache(IDS)
        assert torch.equal(cached, logits)
    first, *others = recorder.runs
    assert len(others) == 2
    for run in others:
        assert run.equals(first)
    if effect == "bypass":
        void = torch.as_tensor(first.void.values[0]).bool()
        for layer in range(4):
            pre, post = (cache[f"blocks.{layer}.hook_resid_{end}"][0] for end in ("pre", "post"))
            assert torch.equal(pre[void[layer]], post[void[layer]]), "the cache holds the stream after our edit"


def test_generation_of_a_masked_batch_equals_trace():
    model = shared_model()
    ids, mask = left_padded(PROMPTS)
    expected = trace(model, PROMPTS, rule=RULE, effect="bypass", max_new_tokens=5, batch_size=4)
    with halting(model, RULE, "bypass") as recorder:
        model.generate(ids, attention_mask=mask, max_new_tokens=5, **GREEDY)
    for sample in range(len(PROMPTS)):
        rows, wanted = rows_of(recorder.trace, sample), rows_of(expected, sample)
        assert rows.token_id.values.tolist() == wanted.token_id.values.tolist()
        np.testing.assert_array_equal(rows.void.values, wanted.void.values)
        np.testing.assert_allclose(rows.delta_norm.values, wanted.delta_norm.values, atol=1e-5)


# --- runs -----------------------------------------------------------------------------------------------


def test_two_generations_are_two_runs():
    model = shared_model()
    with halting(model, RULE, "observe") as recorder:
        by_generate(model)
        model.generate(IDS[:, :2], max_new_tokens=3, **GREEDY)
    assert [(run.sizes["token"], int((run.phase == "decode").sum())) for run in recorder.runs] == [(11, 4), (4, 2)]


def test_two_caches_used_by_turns_are_two_runs():
    model = shared_model()
    with torch.no_grad(), halting(model, RULE, "observe") as recorder:
        a = cached_steps(model, [[PROMPTS[0]]])
        b = cached_steps(model, [[[*PROMPTS[3][:5], 4, 4]]])
        for token in (11, 12):
            model(torch.tensor([[token]]), return_type="logits_and_cache", past_key_values=b, use_cache=True)
            model(torch.tensor([[token + 10]]), return_type="logits_and_cache", past_key_values=a, use_cache=True)
    first, second = recorder.runs
    assert first.token_id.values[0].tolist() == [*PROMPTS[0], 21, 22]
    assert second.token_id.values[0].tolist() == [*PROMPTS[3], 4, 4, 11, 12]


def test_uncached_generation_warns_and_gives_a_run_for_each_pass():
    model = shared_model()
    with halting(model, RULE, "observe") as recorder, pytest.warns(RunWarning, match="without a cache reads a rec"):
        model.generate(IDS, max_new_tokens=3, use_past_kv_cache=False, **GREEDY)
    assert [run.sizes["token"] for run in recorder.runs] == [7, 8, 9]
    assert all((run.phase.values == "prefill").all() for run in recorder.runs)


@pytest.mark.parametrize("how", ["reorder", "select", "crop"])
def test_a_cache_that_was_changed_between_passes_starts_a_run_with_a_warning(how):
    model = shared_model()
    ids = torch.tensor([PROMPTS[0], PROMPTS[0][::-1]])
    mask = torch.ones_like(ids)
    with torch.no_grad(), halting(model, RULE, "observe") as recorder:
        _, cache = model(ids, attention_mask=mask, return_type="logits_and_cache", use_cache=True)
        if how == "reorder":
            cache.reorder_cache(torch.tensor([1, 0]))
        elif how == "select":
            cache.batch_select_indices(torch.tensor([1, 1]))
        else:
            cache.crop(-1)
        past = cache.get_seq_length()
        with pytest.warns(RunWarning, match=f"a pass with {past} cached tokens continues no recorded run"):
            model(
                torch.tensor([[9], [9]]),
                attention_mask=torch.ones(2, past + 1).long(),
                return_type="logits_and_cache",
                past_key_values=cache,
                use_cache=True,
            )
    assert [run.sizes["token"] for run in recorder.runs] == [7, 1]


def test_beam_search_warns():
    model = shared_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PaddingWarning)
        with halting(model, RULE, "observe") as recorder, pytest.warns(RunWarning, match="reordered by beam search"):
            model.original_model.generate(IDS, max_new_tokens=3, num_beams=2, do_sample=False, pad_token_id=0)
    assert len(recorder.runs) > 1


def test_a_cache_filled_outside_starts_a_run_at_what_is_read():
    model = shared_model()
    cache = cached_steps(model, [[PROMPTS[0]]])
    with torch.no_grad(), halting(model, RULE, "observe") as recorder, pytest.warns(RunWarning, match="filled outside"):
        model(torch.tensor([[3, 4]]), return_type="logits_and_cache", past_key_values=cache, use_cache=True)
    assert recorder.trace.token_id.values.tolist() == [[3, 4]]


@pytest.mark.parametrize("masked", [False, True])
def test_positions_behind_a_cache_filled_outside_are_the_samples_own(masked):
    model, rule = shared_model("llama"), FixedLayers([1], scope=Scope(positions=(6, 7)))
    ids = torch.tensor([PROMPTS[0][:6]])
    ids = torch.cat([ids.new_zeros(1, 2), ids], dim=1) if masked else ids
    mask = torch.ones(1, ids.shape[1] + 2)
    mask[:, : 2 if masked else 0] = 0
    with torch.no_grad():
        read = {"attention_mask": mask[:, :-2]} if masked else {}
        cache = model.original_model(input_ids=ids, use_cache=True, **read).past_key_values

        def step(n):
            read = {"attention_mask": mask[:, : ids.shape[1] + n]} if masked else {}
            model.original_model(input_ids=torch.tensor([[7]]), past_key_values=cache, use_cache=True, **read)

        with halting(model, rule, "bypass") as recorder:
            with pytest.warns(RunWarning, match="continues no recorded run"):
                step(1)
            step(2)
    assert recorder.trace.void.values[0, 1].tolist() == [True, False]
    assert recorder.trace.phase.values[0].tolist() == ["prefill", "decode"]


def test_a_pass_that_broke_off_is_not_recorded():
    model = shared_model()

    def fail(x, hook):
        raise RuntimeError("stop")

    with unchanged(model), halting(model, RULE, "observe") as recorder:
        with pytest.raises(RuntimeError, match="stop"):
            model.run_with_hooks(IDS, fwd_hooks=[("blocks.1.hook_resid_post", fail)])
        assert recorder.runs == []
        model(IDS)
    assert recorder.trace.sizes["token"] == 7


# --- phases ---------------------------------------------------------------------------------------------


def test_a_chunked_prompt_is_prefill_up_to_its_length():
    model = shared_model()
    chunks = [[PROMPTS[0][:3]], [PROMPTS[0][3:4]], [PROMPTS[0][4:]], [[40]], [[41]]]
    with halting(model, RULE, "bypass", prompt_lengths=[7]) as recorder:
        cached_steps(model, chunks)
    rows = rows_of(recorder.trace, 0)
    assert rows.phase.values.tolist() == ["prefill"] * 7 + ["decode"] * 2
    expected = rows_of(trace(model, [PROMPTS[0]], responses=[[40, 41]], rule=RULE, effect="bypass"), 0)
    np.testing.assert_array_equal(rows.void.values, expected.void.values)
    np.testing.assert_allclose(rows.resid_post_norm.values, expected.resid_post_norm.values, atol=1e-5)
    assert rows.next_token_id.values.tolist() == [-1] * 6 + [40, 41, -1]


def test_a_one_token_prompt_is_prefill():
    model = shared_model()
    with halting(model, RULE, "observe") as recorder:
        model.generate(IDS[:, :1], max_new_tokens=4, **GREEDY)
    assert recorder.trace.phase.values[0].tolist() == ["prefill"] + ["decode"] * 3


def test_a_prompt_read_token_by_token_is_prefill():
    model = shared_model()
    with halting(model, RULE, "observe", prompt_lengths=[7]) as recorder:
        cached_steps(model, [[[token]] for token in PROMPTS[0] + [50]])
    assert recorder.trace.phase.values[0].tolist() == ["prefill"] * 7 + ["decode"]


def test_prompt_and_answer_in_one_pass_are_told_apart_by_the_lengths():
    model = shared_model()
    ids, mask = left_padded(PROMPTS)
    with halting(model, RULE, "observe", prompt_lengths=[4, 1, 1, 5]) as recorder:
        model(ids, attention_mask=mask)
    counts = (recorder.trace.phase == "decode").sum("token").values.tolist()
    assert counts == [3, 2, 0, 0]


def test_prompt_lengths_of_another_batch_are_refused():
    model = shared_model()
    with (
        unchanged(model),
        halting(model, RULE, "observe", prompt_lengths=[3, 4]),
        pytest.raises(ValueError, match="prompt_lengths has 2 rows, the model was given 1"),
    ):
        model(IDS)


# --- padding --------------------------------------------------------------------------------------------


def test_a_batch_without_a_mask_warns_and_counts_every_token():
    model = shared_model()
    ids, _ = left_padded(PROMPTS)
    with (
        halting(model, RULE, "observe") as recorder,
        pytest.warns(PaddingWarning, match="batch of 4 rows came without"),
    ):
        model(ids)
    assert recorder.trace.valid.all()


def test_one_row_needs_no_mask():
    with halting(shared_model(), RULE, "observe") as recorder:
        shared_model()(IDS)
    assert recorder.trace.valid.all()


def test_the_mask_given_to_halting_counts_where_the_model_gets_none():
    """Right padding, as an evaluation harness passes it: real tokens never look at pads."""
    model = shared_model()
    ids = torch.tensor([p + [0] * (7 - len(p)) for p in PROMPTS])
    mask = torch.tensor([[1] * len(p) + [0] * (7 - len(p)) for p in PROMPTS])
    with halting(model, RULE, "bypass", attention_mask=mask) as recorder:
        model(ids)
    expected = trace(model, PROMPTS, rule=RULE, effect="bypass")
    for sample in range(len(PROMPTS)):
        assert_same_trace(rows_of(recorder.trace, sample), rows_of(expected, sample))


def test_a_mask_of_another_shape_is_refused():
    mask = torch.ones(1, 5).long()
    with (
        halting(shared_model(), RULE, "observe", attention_mask=mask),
        pytest.raises(ValueError, match=r"attention_mask is \(1, 5\), the pass reads \(1, 7\)"),
    ):
        shared_model()(IDS)


# --- nested calls, and what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("effect", ["observe", "bypass", "readout"])
@pytest.mark.parametrize("point", ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.3.hook_resid_post"])
def test_a_nested_call_is_a_run_of_its_own(point, effect):
    model, calls = shared_model(), []
    with halting(model, RULE, effect) as alone:
        expected = model(IDS)
        inner_expected = model(IDS[:, 2:5])
    outer_run, inner_run = alone.runs
    inner = []

    def again(x, hook):
        if not calls:
            calls.append(1)
            inner.append(model(IDS[:, 2:5]))

    with unchanged(model), halting(model, RULE, effect) as recorder:
        logits = model.run_with_hooks(IDS, fwd_hooks=[(point, again)])
    assert torch.equal(logits, expected)
    assert torch.equal(inner[0], inner_expected)
    first, second = recorder.runs
    assert first.equals(outer_run)
    assert second.equals(inner_run)


def test_prompt_lengths_and_mask_are_the_outer_calls_not_a_nested_ones():
    model, calls = shared_model(), []

    def again(x, hook):
        if not calls:
            calls.append(1)
            model(torch.tensor([[1, 2], [3, 4], [5, 6]]), attention_mask=torch.ones(3, 2).long())
            model(torch.tensor([[1, 2]]))

    with halting(model, RULE, "observe", prompt_lengths=[3], attention_mask=torch.ones(1, 7).bool()) as recorder:
        model.run_with_hooks(IDS, fwd_hooks=[("blocks.1.hook_resid_post", again)])
    outer, *inner = recorder.runs
    assert int((outer.phase == "decode").sum()) == 4
    assert [run.phase.values.tolist() for run in inner] == [[["prefill"] * 2] * 3, [["prefill"] * 2]]


def test_a_nested_call_that_fails_does_not_disturb_the_outer():
    model, calls = shared_model(), []

    def fail(x, hook):
        raise RuntimeError("inner")

    def again(x, hook):
        if not calls:
            calls.append(1)
            with pytest.raises(RuntimeError, match="inner"):
                model.run_with_hooks(IDS[:, :2], fwd_hooks=[("blocks.2.hook_resid_pre", fail)])

    with halting(model, RULE, "bypass") as recorder:
        logits = model.run_with_hooks(IDS, fwd_hooks=[("blocks.1.hook_resid_post", again)])
    with halting(model, RULE, "bypass"):
        assert torch.equal(logits, model(IDS))
    assert recorder.trace.sizes["token"] == 7


def test_reset_hooks_inside_the_context_is_noticed():
    model = shared_model()
    with unchanged(model), halting(model, RULE, "bypass"):
        model.reset_hooks()
        with pytest.raises(PartialPassError, match=r"0 of 4 blocks fired in this pass.*reset_hooks\(\)"):
            model(IDS)


def test_reset_hooks_inside_a_pass_is_noticed():
    model = shared_model()

    def reset(x, hook):
        model.reset_hooks()

    with unchanged(model), halting(model, RULE, "bypass"), pytest.raises(PartialPassError, match="reset_hooks"):
        model.run_with_hooks(IDS, fwd_hooks=[("blocks.1.hook_resid_post", reset)])


@pytest.mark.parametrize("how", ["forward", "run_with_hooks", "run_with_cache"])
def test_stopping_early_is_refused_in_words(how):
    model = shared_model()
    call = model if how == "forward" else getattr(model, how)
    call(IDS)  # in their first pass a bridge, and transformers, put hooks of their own on some modules
    with (
        unchanged(model),
        halting(model, RULE, "observe") as recorder,
        pytest.raises(PartialPassError, match="stop_at_layer runs a part of the model"),
    ):
        call(IDS, stop_at_layer=2)
    assert recorder.runs == []
    assert model(IDS, stop_at_layer=2).shape == (1, 7, 32), "outside the context it works"


def test_starting_late_is_refused_in_words():
    model = shared_model()
    stream = torch.randn(1, 3, 32)
    try:
        model(stream, start_at_layer=2)
    except NotImplementedError:
        pytest.skip("this TransformerLens has no start_at_layer on a bridge")
    with unchanged(model), halting(model, RULE, "observe"):
        with pytest.raises(PartialPassError, match="start_at_layer runs a part of the model"):
            model(stream, start_at_layer=2)
        model(IDS)


def test_a_block_called_by_hand_is_nobodys_pass():
    model = shared_model()
    stream = torch.randn(1, 3, 32)
    positions = model.original_model.model.rotary_emb(stream, torch.arange(3)[None])
    with halting(model, FixedLayers([1]), "bypass") as recorder:
        model.blocks[1](stream, position_embeddings=positions)
    assert recorder.runs == []
