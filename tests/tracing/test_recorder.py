"""What a recorder keeps, how it tells runs apart, and how little memory that takes."""

import gc
from types import ModuleType

import pytest
import torch
from helpers import PROMPTS, rows_of, shared_model

from lacscope import FixedLayers, L2AdaptiveComputation, NonFiniteStreamError, Recorder, halting, halting_hooks
from lacscope.testing import tiny_model
from lacscope.tracing._recorder import PassRecord, Run

RULE = L2AdaptiveComputation(0.6)
IDS = torch.tensor([PROMPTS[0]])


def record(norms, mask=None, delta=None):
    """A pass with these norms entering each layer, [layer][row][pos]."""
    pre = torch.tensor(norms)
    delta = torch.zeros_like(pre) if delta is None else torch.tensor(delta)
    kept = torch.ones(pre.shape[1:], dtype=torch.bool) if mask is None else torch.tensor(mask)
    layerwise = {"resid_pre_norm": pre, "resid_post_norm": pre + delta, "delta_norm": delta, "update_norm": delta}
    tokens = torch.arange(pre[0].numel()).reshape(pre.shape[1:])
    return PassRecord(tokens, kept, layerwise, None)


def test_trace_of_an_empty_recorder_says_that_nothing_ran():
    with pytest.raises(ValueError, match="nothing was recorded"):
        _ = Recorder().trace


def test_trace_of_several_runs_lists_them():
    model = shared_model()
    with halting(model, RULE, "observe") as recorder:
        model(IDS)
        model(IDS[:, :3])
        assert len(recorder.runs) == 2
    message = r"2 runs were recorded \(run 0: 1 rows, 7 tokens in 1 passes; run 1: 1 rows, 3 tokens in 1 passes\)"
    with pytest.raises(ValueError, match=message):
        _ = recorder.trace
    recorder.clear()
    assert recorder.runs == []
    with pytest.raises(ValueError, match="nothing was recorded"):
        _ = recorder.trace


def test_clear_inside_the_context_forgets_and_goes_on():
    model = shared_model()
    with halting(model, RULE, "observe") as recorder:
        model(IDS)
        recorder.clear()
        model(IDS[:, :3])
    assert recorder.trace.sizes["token"] == 3


def test_a_recorder_stays_readable_after_the_context_and_grows_inside_it():
    model = shared_model()
    with torch.no_grad(), halting(model, RULE, "observe") as recorder:
        _, cache = model(IDS, return_type="logits_and_cache", use_cache=True)
        assert recorder.trace.sizes["token"] == 7
        model(IDS[:, :1], return_type="logits_and_cache", past_key_values=cache, use_cache=True)
        assert recorder.trace.sizes["token"] == 8
    assert recorder.trace.sizes["token"] == 8
    assert recorder.trace is recorder.trace, "built once"


def test_a_recorder_serves_one_model():
    recorder = Recorder()
    halting_hooks(shared_model(), None, "observe", recorder=recorder)
    with pytest.raises(ValueError, match="holds runs of tiny-llama; give each model a recorder of its own"):
        halting_hooks(tiny_model("gpt2"), None, "observe", recorder=recorder)


def test_two_programs_on_one_recorder_keep_their_own_attributes():
    model, recorder = shared_model(), Recorder()
    first = halting_hooks(model, FixedLayers([1]), "bypass", recorder=recorder)
    second = halting_hooks(model, RULE, "readout", recorder=recorder)
    model.run_with_hooks(IDS, fwd_hooks=second)
    model.run_with_hooks(IDS, fwd_hooks=first)
    assert [run.attrs["effect"] for run in recorder.runs] == ["readout", "bypass"]
    assert "FixedLayers" in recorder.runs[1].attrs["rule"]


def test_the_attributes_say_what_made_the_trace():
    model = shared_model("gpt2")
    with halting(model, FixedLayers([1], "block"), "bypass") as recorder:
        model(IDS)
    attrs = recorder.trace.attrs
    assert attrs["model"] == "tiny-gpt2"
    assert attrs["effect"] == "bypass"
    assert attrs["rule"] == '{"layers": [1], "name": "FixedLayers", "unit": "block"}'
    assert attrs["n_layers"] == 4
    assert attrs["weight_processing"] == "none"


def reachable_tensors(root, skip):
    """Every tensor that can be reached from an object, not through ``skip``, classes or modules."""
    seen, queue, found = {id(item) for item in skip}, [root], []
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, (type, ModuleType)):
            continue
        seen.add(id(item))
        if type(item) is torch.Tensor:
            found.append(item)
        elif not callable(item):
            queue.extend(gc.get_referents(item))
    return found


@pytest.mark.parametrize("effect", ["observe", "bypass", "readout"])
def test_a_recorder_keeps_norms_and_no_stream(effect):
    model = shared_model("llama", "residual")
    with torch.no_grad(), halting(model, RULE, effect) as recorder:
        model.generate(IDS, max_new_tokens=6, do_sample=False, verbose=False, return_type="tokens")
    tensors = reachable_tensors(recorder, skip=[recorder._adapter])
    assert len(tensors) >= 6 * 5, "the walk found nothing: the test shows nothing"
    assert not [t for t in tensors if t.ndim and t.shape[-1] == model.cfg.d_model]
    read, layers = 7 + 5, 4
    # Four float32 norms and a mask for each layer and token; id and mask of each token; the prompt's length.
    kept = sum(t.untyped_storage().nbytes() for t in {t.data_ptr(): t for t in tensors}.values())
    assert kept <= read * layers * (4 * 4 + 1) + read * (8 + 1) + 8


def test_norms_kept_of_a_gradient_pass_hold_no_graph():
    model = shared_model()
    with halting(model, RULE, "bypass") as recorder:
        model(IDS)
    assert not any(t.requires_grad for t in reachable_tensors(recorder, skip=[recorder._adapter]))


def test_nested_runs_stand_in_the_order_in_which_they_began():
    model, calls = shared_model(), []

    def again(x, hook):
        if not calls:
            calls.append(1)
            model(IDS[:, :2])

    with halting(model, RULE, "observe") as recorder:
        model.run_with_hooks(IDS, fwd_hooks=[("blocks.1.hook_resid_post", again)])
    assert [run.sizes["token"] for run in recorder.runs] == [7, 2]


def test_not_finite_is_named_where_it_began():
    nan = float("nan")
    norms = [[[1.0, 1.0]] * 2, [[1.0, 1.0], [1.0, nan]], [[nan, 1.0], [1.0, nan]]]
    with pytest.raises(NonFiniteStreamError, match=r"entering layer 1 .* sample 1 of the batch, token 1 \(id 3\)"):
        record(norms).check_finite()
    with pytest.raises(NonFiniteStreamError, match=r"leaving layer 0 .* sample 0 of the batch, token 1 "):
        record(norms, delta=[[[0.0, nan], [0.0, 0.0]], [[0.0] * 2] * 2, [[0.0] * 2] * 2]).check_finite()
    with pytest.raises(NonFiniteStreamError, match=r"entering layer 1 .* at sample 70, token 1 "):
        record(norms).check_finite(sample_ids=[60, 70])


def test_padding_counts_neither_as_not_finite_nor_as_token():
    nan = float("nan")
    padded = record([[[nan, 1.0, 1.0]], [[nan, 1.0, 1.0]]], mask=[[False, True, True]])
    padded.check_finite()
    run = Run(rule_states=[])
    run.add(padded)
    with pytest.raises(NonFiniteStreamError, match=r"entering layer 0 .*, token 2 "):
        record([[[nan]], [[1.0]]]).check_finite(run)


def test_a_run_with_given_prompt_lengths_splits_rows_at_them():
    run = Run(rule_states=[], prompt_lengths=torch.tensor([3, 1]))
    run.add(record([[[1.0, 2.0, 3.0], [9.0, 4.0, 5.0]]], mask=[[True] * 3, [False, True, True]]))
    run.add(record([[[1.0], [1.0]]]))
    first, second = run.samples(last_sampled=torch.tensor([40, 50]))
    assert first.decode.tolist() == [False, False, False, True]
    assert second.decode.tolist() == [False, True, True]
    assert first.next_token_id.tolist() == [-1, -1, 0, 40]
    assert second.next_token_id.tolist() == [-1, 1, 50]
    assert second.layerwise["resid_pre_norm"][0].tolist() == [4.0, 5.0, 1.0]


def test_a_row_ends_at_its_first_generated_stop_and_not_at_one_in_its_prompt():
    run = Run(rule_states=[])
    run.add(
        PassRecord(torch.tensor([[5, 2], [5, 6]]), torch.ones(2, 2).bool(), record([[[1.0] * 2] * 2]).layerwise, None)
    )
    for ids in ([[7], [2]], [[2], [2]], [[8], [9]]):
        run.add(PassRecord(torch.tensor(ids), torch.ones(2, 1).bool(), record([[[1.0]] * 2]).layerwise, None))
    first, second = run.samples(frozenset({2}))
    assert first.token_id.tolist() == [5, 2, 7]
    assert first.next_token_id.tolist() == [-1, 7, 2]
    assert second.token_id.tolist() == [5, 6]
    assert second.next_token_id.tolist() == [-1, 2]


def test_rows_of_helper_sees_only_valid_tokens():
    model = shared_model()
    with halting(model, RULE, "observe") as recorder:
        model(torch.tensor([[1, 2], [3, 4]]), attention_mask=torch.tensor([[0, 1], [1, 1]]))
    assert rows_of(recorder.trace, 0).token_id.values.tolist() == [2]
