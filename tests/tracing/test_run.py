"""trace: batches, end of sequence, what stands beside what, sampling, given answers, many rules, memory."""

import gc

import numpy as np
import pytest
import torch
from helpers import PROMPTS, assert_same_trace, bridge_of, left_padded, rows_of, shared_model

from lacscope import FixedLayers, InputError, L2AdaptiveComputation, NonFiniteStreamError, RunWarning, trace
from lacscope.testing import tiny_model, tiny_transformers_model
from lacscope.traces._options import check_options

RULE = L2AdaptiveComputation(0.6)


def greedy_tokens(prompt, steps, architecture="llama"):
    """What the plain model says, reading everything anew at each step."""
    model = tiny_transformers_model(architecture)
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def stopping_at(token, architecture="llama"):
    """A model of our own whose end of sequence is this token."""
    model = tiny_model(architecture)
    model.original_model.generation_config.eos_token_id = token
    return model


def test_rows_belong_to_the_token_read_and_name_the_one_sampled():
    tokens = greedy_tokens(PROMPTS[0], 5)
    rows = rows_of(trace(shared_model(), [PROMPTS[0]], max_new_tokens=5), 0)
    n_prompt = len(PROMPTS[0])
    assert rows.token_id.values.tolist() == PROMPTS[0] + tokens[:-1]  # the last token is never read
    assert rows.next_token_id.values.tolist() == [-1] * (n_prompt - 1) + tokens
    assert rows.phase.values.tolist() == ["prefill"] * n_prompt + ["decode"] * 4


@pytest.mark.parametrize(("max_new_tokens", "decode_rows"), [(0, 0), (1, 0), (2, 1), (6, 5)])
def test_n_new_tokens_give_n_minus_1_decode_rows(max_new_tokens, decode_rows):
    rows = rows_of(trace(shared_model(), [PROMPTS[0]], max_new_tokens=max_new_tokens), 0)
    assert (rows.phase == "decode").sum() == decode_rows
    last = rows.next_token_id.values[len(PROMPTS[0]) - 1]
    assert (last == -1) == (max_new_tokens == 0)


def test_a_first_token_that_ends_the_sequence_gives_no_decode_row():
    first = greedy_tokens(PROMPTS[0], 1)[0]
    rows = rows_of(trace(stopping_at(first), [PROMPTS[0]], max_new_tokens=8), 0)
    assert rows.token_id.values.tolist() == PROMPTS[0]
    assert rows.next_token_id.values[-1] == first


def test_rows_of_a_batch_stop_at_their_own_end():
    answers = [greedy_tokens(prompt, 8) for prompt in PROMPTS]
    stop = answers[0][2]
    model = stopping_at(stop)
    together = trace(model, PROMPTS, rule=RULE, max_new_tokens=8, batch_size=4, measures=["surprisal"])
    lengths = set()
    for sample, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        expected = answer[: answer.index(stop) + 1] if stop in answer else answer
        rows = rows_of(together, sample)
        assert rows.next_token_id.values[len(prompt) - 1 :].tolist() == expected
        assert rows.token_id.values.tolist() == prompt + expected[:-1]
        lengths.add(len(expected))
        after = together.isel(sample=sample, token=slice(len(rows.token), None))
        assert not after.valid.any()
        assert not (after.void == 1).any()
        assert (after.next_token_id == -1).all()
        for name in ("resid_pre_norm", "resid_post_norm", "delta_norm", "update_norm", "surprisal"):
            assert np.isnan(after[name].values).all()
        alone = rows_of(trace(model, [prompt], rule=RULE, max_new_tokens=8), 0)
        assert_same_trace(rows, alone)
    assert len(lengths) > 1, "all rows ended together: the test shows nothing"


def test_generation_ends_when_every_row_has_ended_and_not_before():
    first, second = greedy_tokens(PROMPTS[0], 4), greedy_tokens(PROMPTS[1], 4)
    model, passes = tiny_model(), []
    model.original_model.generation_config.eos_token_id = [first[1], second[2]]
    count = [("blocks.0.hook_resid_pre", lambda x, hook: passes.append(x.shape[1]))]
    traced = trace(model, PROMPTS[:2], max_new_tokens=50, fwd_hooks=count)
    answers = [rows_of(traced, sample).next_token_id.values for sample in range(2)]
    longest = max((answer >= 0).sum() for answer in answers)
    assert passes == [7] + [1] * (longest - 1)
    assert longest <= 3


def test_the_end_of_sequence_ids_are_those_of_the_generation_config_all_of_them():
    answer = greedy_tokens(PROMPTS[0], 6)
    model = tiny_model()
    model.original_model.generation_config.eos_token_id = [answer[4], answer[2]]
    model.original_model.generation_config.max_length = 3  # the rest of it is ignored
    rows = rows_of(trace(model, [PROMPTS[0]], max_new_tokens=6), 0)
    assert rows.next_token_id.values[-1] == answer[2] or answer.index(answer[2]) != 2


def test_an_end_of_sequence_inside_the_prompt_ends_nothing():
    prompt = [2, 5, 2, 9]
    rows = rows_of(trace(shared_model(), [prompt], max_new_tokens=3), 0)
    assert rows.token_id.values[:4].tolist() == prompt
    assert rows.phase.values[:4].tolist() == ["prefill"] * 4


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_seeded_sampling_does_not_depend_on_batch_size(batch_size):
    options = {"max_new_tokens": 6, "temperature": 1.3, "top_p": 0.9, "seed": 11}
    expected = trace(shared_model(), PROMPTS, batch_size=4, **options)
    got = trace(shared_model(), PROMPTS, batch_size=batch_size, **options)
    assert (got.next_token_id.values == expected.next_token_id.values).all()
    other = trace(shared_model(), PROMPTS, batch_size=batch_size, **{**options, "seed": 12})
    assert (other.next_token_id.values != expected.next_token_id.values).any()


def test_a_sample_is_sampled_alike_alone_and_in_a_set():
    options = {"max_new_tokens": 6, "temperature": 1.0, "seed": 3}
    together = trace(shared_model(), PROMPTS, sample_ids=[10, 11, 12, 13], **options)
    alone = trace(shared_model(), [PROMPTS[2]], sample_ids=[12], **options)
    assert_same_trace(rows_of(together, 2), rows_of(alone, 0))
    assert together.sample.values.tolist() == [10, 11, 12, 13]


def test_sampling_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    traced = trace(shared_model(), PROMPTS, max_new_tokens=4, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    again = trace(shared_model(), PROMPTS, max_new_tokens=4, temperature=1.0, seed=traced.attrs["seed"])
    assert (again.token_id.values == traced.token_id.values).all(), "the drawn seed is stored"


@pytest.mark.parametrize("effect", ["observe", "bypass", "readout"])
def test_given_answers_equal_prompt_and_answer_in_one_reading(effect):
    answers = [[8, 30], [55, 6, 70, 4], [9], [31, 32, 33]]
    given = trace(shared_model(), PROMPTS, responses=answers, rule=RULE, effect=effect, batch_size=4)
    whole = [p + a for p, a in zip(PROMPTS, answers, strict=True)]
    fed = trace(shared_model(), whole, rule=RULE, effect=effect, batch_size=2)
    for sample, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        a, b = rows_of(given, sample), rows_of(fed, sample)
        assert a.phase.values.tolist() == ["prefill"] * len(prompt) + ["decode"] * len(answer)
        assert (b.phase == "prefill").all()
        assert (a.next_token_id == -1).all(), "nothing was sampled"
        assert_same_trace(a.assign_coords(phase=b.phase), b)
    assert given.attrs["response"] == "given"
    assert fed.attrs["response"] == "none"


def test_a_generated_answer_given_back_has_the_same_rows():
    model = shared_model()
    made = trace(model, [PROMPTS[0]], rule=RULE, effect="bypass", max_new_tokens=6)
    answer = rows_of(made, 0).token_id.values[len(PROMPTS[0]) :].tolist()
    given = trace(model, [PROMPTS[0]], responses=[answer], rule=RULE, effect="bypass")
    a, b = rows_of(made, 0), rows_of(given, 0)
    assert_same_trace(a.assign_coords(next_token_id=b.next_token_id), b)


def test_surprisal_and_entropy_are_those_of_the_plain_model():
    traced = trace(shared_model(), PROMPTS, max_new_tokens=4, measures=["surprisal", "entropy"], batch_size=4)
    plain = tiny_transformers_model()
    for sample in range(len(PROMPTS)):
        rows = rows_of(traced, sample)
        ids = torch.tensor(rows.token_id.values)
        with torch.no_grad():
            log_probs = plain(ids[None], use_cache=False).logits[0].log_softmax(-1)
        surprisal = -log_probs[:-1].gather(-1, ids[1:, None])[:, 0]
        assert np.isnan(rows.surprisal.values[0]), "nothing predicts the first token"
        np.testing.assert_allclose(rows.surprisal.values[1:], surprisal, atol=1e-4)
        np.testing.assert_allclose(rows.entropy.values, -(log_probs.exp() * log_probs).sum(-1), atol=1e-4)


@pytest.mark.parametrize("effect", ["observe", "readout", "bypass"])
def test_rank_counts_the_tokens_with_a_higher_logit(effect):
    traced = trace(shared_model(), PROMPTS, rule=RULE, effect=effect, max_new_tokens=4, measures=["rank"], logits="all")
    ranks = set()
    for sample in range(len(PROMPTS)):
        rows = rows_of(traced, sample)
        ids, logits = rows.token_id.values, rows.logits.values
        assert np.isnan(rows["rank"].values[0]), "nothing predicts the first token"
        for place in range(1, len(ids)):
            expected = sum(float(other) > float(logits[place - 1, ids[place]]) for other in logits[place - 1])
            assert rows["rank"].values[place] == expected
            ranks.add(expected)
        assert (rows["rank"].values[rows.phase.values == "decode"] == 0).all(), "the greedy choice"
    assert len(ranks) > 3
    assert traced["rank"].attrs["units"] == "1"


@pytest.mark.parametrize("effect", ["observe", "readout", "bypass"])
@pytest.mark.parametrize("read", [{"responses": [[8, 30], [55, 6, 70, 4], [9], [31, 32, 33]]}, {"max_new_tokens": 4}])
def test_measured_on_responses_alone_they_are_the_same_there_and_nan_on_prompts(read, effect):
    options = {"rule": RULE, "effect": effect, "measures": ["surprisal", "rank", "entropy"], **read}
    every = trace(shared_model(), PROMPTS, **options)
    some = trace(shared_model(), PROMPTS, tokenwise="response", **options)
    decode = (every.phase == "decode").values
    for name in ("surprisal", "rank", "entropy"):
        assert np.isfinite(some[name].values[decode]).all()
        np.testing.assert_allclose(some[name].values[decode], every[name].values[decode], atol=1e-4)
        assert np.isnan(some[name].values[~decode]).all()
    assert_same_trace(rows_of(some, 0), rows_of(every, 0))


def test_threshold_is_alpha_times_the_spread_of_earlier_deltas():
    rows = rows_of(trace(shared_model(), [PROMPTS[0]], rule=RULE, measures=["threshold"]), 0)
    delta, threshold = rows.delta_norm.values, rows.threshold.values
    for layer in range(4):
        for token in range(delta.shape[1]):
            before = delta[:layer, token]
            expected = 0.6 * (before.max() - before.min()) if layer else 0.0
            assert threshold[layer, token] == pytest.approx(expected, rel=1e-5)


def test_logits_last_are_at_the_last_prompt_token_and_all_at_every_token():
    plain = tiny_transformers_model()
    answers = [[8, 30], [55, 6, 70, 4], [9], [31, 32, 33]]
    for options in ({}, {"max_new_tokens": 3}, {"responses": answers}):
        last = trace(shared_model(), PROMPTS, logits="last", **options)
        every = trace(shared_model(), PROMPTS, logits="all", **options)
        for sample, prompt in enumerate(PROMPTS):
            with torch.no_grad():
                expected = plain(torch.tensor([prompt])).logits[0].numpy()
            np.testing.assert_allclose(last.logits.values[sample], expected[-1], atol=1e-4)
            np.testing.assert_allclose(every.logits.values[sample, : len(prompt)], expected, atol=1e-4)
            n_read = len(rows_of(every, sample).token)
            assert np.isfinite(every.logits.values[sample, :n_read]).all()
            assert np.isnan(every.logits.values[sample, n_read:]).all()


def test_a_masked_tensor_equals_lists_of_ids():
    ids, mask = left_padded(PROMPTS)
    expected = trace(shared_model(), PROMPTS, rule=RULE, max_new_tokens=3)
    right = torch.tensor([p + [0] * (7 - len(p)) for p in PROMPTS])
    right_mask = torch.tensor([[1] * len(p) + [0] * (7 - len(p)) for p in PROMPTS])
    for tensor, keep in ((ids, mask), (right, right_mask)):
        got = trace(shared_model(), tensor, attention_mask=keep, rule=RULE, max_new_tokens=3)
        assert got.equals(expected)


def test_a_mask_may_be_bool():
    ids, mask = left_padded(PROMPTS)
    got = trace(shared_model(), ids, attention_mask=mask.bool(), rule=RULE)
    assert got.equals(trace(shared_model(), PROMPTS, rule=RULE))


@pytest.mark.parametrize("effect", ["observe", "readout", "bypass"])
def test_many_rules_equal_one_at_a_time(effect):
    rules = [L2AdaptiveComputation(0.0), FixedLayers([1]), L2AdaptiveComputation(2.0)]
    options = {"effect": effect, "max_new_tokens": 5, "batch_size": 2}
    many = trace(shared_model(), PROMPTS, rule=rules, **options)
    assert many.sizes["rule"] == 3
    assert many.void.dims[0] == "rule"
    for index, rule in enumerate(rules):
        one = trace(shared_model(), PROMPTS, rule=rule, **options)
        for sample in range(len(PROMPTS)):
            assert_same_trace(rows_of(many.isel(rule=index), sample), rows_of(one, sample))


def test_rules_that_are_bypassed_may_differ_in_unit():
    rules = [FixedLayers([1]), FixedLayers([1], "mlp"), FixedLayers([1], "attn")]
    many = trace(shared_model(), PROMPTS, rule=rules, effect="bypass")
    for index, rule in enumerate(rules):
        # Together they run on the bridge; the first by itself would need nothing of it.
        on_bridge = {"measures": ["attn_out_norm"]}
        one = trace(shared_model(), PROMPTS, rule=rule, effect="bypass", **on_bridge)
        np.testing.assert_array_equal(many.resid_post_norm.isel(rule=index), one.resid_post_norm)


@pytest.mark.parametrize("effect", ["observe", "readout", "bypass"])
def test_a_list_of_one_rule_still_has_the_dimension(effect):
    many = trace(shared_model(), PROMPTS[:2], rule=[RULE], effect=effect, max_new_tokens=3)
    one = trace(shared_model(), PROMPTS[:2], rule=RULE, effect=effect, max_new_tokens=3)
    assert many.void.dims[0] == "rule"
    np.testing.assert_array_equal(many.void.isel(rule=0).values, one.void.values)


def test_not_a_number_names_layer_token_and_sample():
    def spoil(x, hook):
        x = x.clone()
        # Prompts are batched by length: this is row 2 of [12], [44, 3, 90], [7, ...], [5, ...].
        x[2, -2, 7] = float("nan")
        return x

    with pytest.raises(NonFiniteStreamError, match=r"leaving layer 2 is not finite at .*, token 3 \(id 21\)"):
        trace(shared_model(), PROMPTS, fwd_hooks=[("blocks.2.hook_mlp_out", spoil)])


def test_not_a_number_names_the_sample_not_the_row_of_the_batch():
    def spoil(x, hook):
        return torch.full_like(x, float("inf"))

    with pytest.raises(NonFiniteStreamError, match=r"entering layer 1 is not finite at sample 12, token 0 "):
        trace(shared_model(), PROMPTS, sample_ids=[10, 11, 12, 13], fwd_hooks=[("blocks.1.hook_resid_pre", spoil)])


def test_not_a_number_in_decode_counts_real_tokens_only():
    def spoil(x, hook):
        if x.shape[1] > 1:
            return x
        x = x.clone()
        x[0] = float("inf")
        return x

    with pytest.raises(NonFiniteStreamError, match=r"entering layer 3 .* token 1 "):
        trace(
            shared_model(), [PROMPTS[0], PROMPTS[2]], max_new_tokens=3, fwd_hooks=[("blocks.3.hook_resid_pre", spoil)]
        )


def test_not_a_number_on_padding_is_ignored():
    _, mask = left_padded([PROMPTS[2], PROMPTS[0]])
    pads = ~mask.bool()

    def spoil(x, hook):
        return x.masked_fill(pads.unsqueeze(-1), float("nan"))

    # The last block's MLP: nothing later mixes positions.
    spoilt = trace(shared_model(), [PROMPTS[0], PROMPTS[2]], fwd_hooks=[("blocks.3.hook_mlp_out", spoil)])
    clean = trace(shared_model(), [PROMPTS[0], PROMPTS[2]], fwd_hooks=[("blocks.3.hook_mlp_out", lambda x, hook: x)])
    assert spoilt.drop_attrs().equals(clean.drop_attrs())


def test_a_nested_call_in_a_users_hook_does_not_disturb_the_trace():
    model = shared_model()
    expected = trace(model, PROMPTS, rule=RULE, effect="bypass")
    inner = []

    def again(x, hook):
        if not inner:
            inner.append(1)
            model(torch.tensor([[1, 2, 3]]))

    got = trace(model, PROMPTS, rule=RULE, effect="bypass", fwd_hooks=[("blocks.2.hook_resid_pre", again)])
    assert inner
    for sample in range(len(PROMPTS)):
        assert_same_trace(rows_of(got, sample), rows_of(expected, sample))


def test_observing_generates_what_the_model_generates():
    for architecture in ("llama", "gpt2", "gemma2"):
        model = shared_model(architecture, "residual")
        traced = trace(model, PROMPTS, rule=RULE, max_new_tokens=5)
        for sample, prompt in enumerate(PROMPTS):
            produced = rows_of(traced, sample).next_token_id.values[len(prompt) - 1 :].tolist()
            expected = greedy_tokens(prompt, 5, architecture)
            assert produced == (expected[: expected.index(2) + 1] if 2 in expected else expected)


@pytest.mark.parametrize("rule", [None, [FixedLayers([1]), FixedLayers([2])]], ids=["one run", "many rules"])
def test_a_pass_of_the_callers_own_between_batches_is_none_of_the_traces(rule):
    """It has other rows than the batch that was read before it."""
    model, options = shared_model(), {"rule": rule, "effect": "readout" if rule else "observe", "max_new_tokens": 3}
    expected = trace(model, PROMPTS, batch_size=3, **options)
    got = trace(model, PROMPTS, batch_size=3, progress=lambda done, total: model(torch.tensor([[5, 6]])), **options)
    assert got.drop_attrs().equals(expected.drop_attrs())


def test_progress_counts_samples():
    calls = []
    trace(shared_model(), PROMPTS, batch_size=3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 4), (4, 4)]


def test_a_prompt_that_fills_the_context_is_read_and_one_more_token_refused():
    model = shared_model()
    ids = [i % 90 + 3 for i in range(128)]
    assert trace(model, [ids], max_new_tokens=1).sizes["token"] == 128
    assert trace(model, [ids[:-2]], max_new_tokens=3).sizes["token"] == 128
    with pytest.raises(InputError, match="prompt 1 has 127 tokens and 2 generated ones to read; the context"):
        trace(model, [ids[:5], ids[:-1]], max_new_tokens=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effect": "bypass"}, "effect='bypass' needs a halting rule, got rule=None"),
        ({"measures": ["loudness"]}, "unknown measure 'loudness'; choose from attn_out_norm"),
        ({"measures": "surprisal"}, "write \\['surprisal'\\]"),
        ({"measures": ["threshold"]}, "measure 'threshold' needs one L2AdaptiveComputation"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_new_tokens": -1}, "max_new_tokens must be 0 or more, got -1"),
        ({"max_new_tokens": 2, "responses": [[1]]}, "pass one of the two"),
        ({"rule": []}, "rule=\\[\\] has no rule"),
        ({"rule": FixedLayers([9]), "effect": "bypass"}, "FixedLayers\\[9\\]: the model has layers 0 to 3"),
        ({"rule": [FixedLayers([1]), FixedLayers([1], "mlp")]}, "must share their unit"),
        ({"fwd_hooks": [("blocks.9.hook_resid_pre", print)]}, "has no hook point 'blocks.9.hook_resid_pre'"),
        ({"sample_ids": [1, 2]}, "sample_ids has 2 entries for 1 inputs"),
    ],
)
def test_options_that_cannot_be_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        trace(shared_model(), [PROMPTS[0]], **options)


def test_an_effect_or_a_choice_of_logits_that_is_none_is_refused_in_words():
    """Asked of check_options: trace's own annotation refuses them first while types are checked."""
    with pytest.raises(ValueError, match="unknown effect 'skip'; choose one of 'observe', 'readout', 'bypass'"):
        check_options(effect="skip")
    with pytest.raises(ValueError, match=r"tokenwise must be 'all' or 'response' .*, got 'prompt'"):
        check_options(tokenwise="prompt")
    with pytest.raises(ValueError, match="logits must be 'none', 'last' or 'all', got 'some'"):
        check_options(logits="some")


def live_streams(shape):
    """Tensors alive that have a row of d_model for each token."""
    gc.collect()
    return sum(1 for item in gc.get_objects() if type(item) is torch.Tensor and tuple(item.shape) == shape)


@pytest.mark.parametrize("effect", ["observe", "bypass"])
def test_no_stream_is_kept_beyond_the_layer_that_made_it(effect):
    """Extra memory is O(layers x tokens): deep in the model as many streams are alive as without us."""
    n_layers = 12
    model = bridge_of(tiny_transformers_model("llama", n_layers=n_layers))
    prompt = [list(range(3, 40))]
    counts = {}

    def counting(label):
        def count(x, hook):
            counts[label] = live_streams((1, 37, 32))

        return [(f"blocks.{n_layers - 1}.hook_resid_pre", count)]

    with torch.no_grad():
        model.run_with_hooks(torch.tensor(prompt), fwd_hooks=counting("plain"))
    trace(model, prompt, rule=RULE, effect=effect, fwd_hooks=counting("ours"))
    assert counts["ours"] - counts["plain"] <= 2, counts


def test_readout_in_trace_keeps_the_last_position_only():
    n_layers = 12
    model = bridge_of(tiny_transformers_model("llama", n_layers=n_layers))
    prompt = [list(range(3, 40))]
    counts = []
    trace(
        model,
        prompt,
        rule=RULE,
        effect="readout",
        fwd_hooks=[(f"blocks.{n_layers - 1}.hook_resid_pre", lambda x, hook: counts.append(live_streams((1, 37, 32))))],
    )
    observed = []
    hook = (f"blocks.{n_layers - 1}.hook_resid_pre", lambda x, hook: observed.append(live_streams((1, 37, 32))))
    trace(model, prompt, rule=RULE, fwd_hooks=[hook])
    assert counts[0] - observed[0] <= 1


def test_uncached_passes_inside_trace_warn_about_nothing():
    """No warning of ours comes out of trace itself (warnings are errors here)."""
    trace(shared_model(), [[5, 6], [5, 6, 7], [5, 6, 7, 8]], batch_size=1)
    trace(shared_model(), [[5, 6], [5, 6, 7], [5, 6, 7, 8]], batch_size=1, max_new_tokens=3)
    assert issubclass(RunWarning, UserWarning)
