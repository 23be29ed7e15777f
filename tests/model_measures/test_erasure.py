"""Residual erasure, against whole passes of a plain model with one vector replaced."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import PROMPTS, bridge_of, shared_model, unchanged
from plain_transformers import entering, whole_pass

from lacscope.model_measures import CSORDAS_ERASURE, residual_erasure
from lacscope.testing import tiny_model, tiny_transformers_model
from lacscope.tracing._inputs import InputError

pytestmark = pytest.mark.once

ASKED, ANSWERS = [[5, 17, 60, 9, 33], [44, 3]], [[71, 8], [90, 12, 6]]


def slow_mean(architecture: str, left_out: dict[int, set[int]]) -> list[torch.Tensor]:
    """Mean residual of each state over the tokens of ``PROMPTS``; ``left_out``: positions by prompt."""
    model = tiny_transformers_model(architecture)
    total = [torch.zeros(32, dtype=torch.float64) for _ in range(5)]
    count = 0
    for index, ids in enumerate(PROMPTS):
        streams, _ = whole_pass(model, architecture, ids)
        for t in set(range(len(ids))) - left_out.get(index, set()):
            count += 1
            for state in range(5):
                total[state] += streams[state][t]
    return [(one / count).float() for one in total]


def slow_map(architecture: str, prompt: list[int], answer: list[int], mean: list[torch.Tensor]) -> np.ndarray:
    model = tiny_transformers_model(architecture)
    ids = prompt + answer
    streams, before = whole_pass(model, architecture, ids)
    effect = np.zeros((len(streams), len(ids)))
    for state in range(len(streams)):
        for t in range(len(ids)):
            changed = streams[state].clone()
            changed[t] = mean[state]
            with entering(model, architecture, state, changed):
                _, after = whole_pass(model, architecture, ids)
            predicting = range(len(prompt) - 1, len(ids) - 1)
            effect[state, t] = max(float(np.linalg.norm((before[p] - after[p]).numpy())) for p in predicting)
    return effect


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("exclude_sinks", [False, True])
def test_equals_the_slow_direct_implementation(architecture: str, exclude_sinks: bool) -> None:
    found = residual_erasure(
        shared_model(architecture), ASKED, ANSWERS, mean_over=PROMPTS, exclude_sinks=exclude_sinks, batch_size=3
    )
    left_out = {index: {0} for index in range(len(PROMPTS))} if exclude_sinks else {}
    mean = slow_mean(architecture, left_out)
    for sample, (prompt, answer) in enumerate(zip(ASKED, ANSWERS, strict=True)):
        expected = slow_map(architecture, prompt, answer, mean)
        rows = found.effect[sample, :, : expected.shape[1]]
        np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-6)
    assert found.effect[1, :, 5:].isnull().all()


def test_batch_size_changes_no_number() -> None:
    model = shared_model("llama")
    one, many = (residual_erasure(model, ASKED, ANSWERS, mean_over=PROMPTS, batch_size=n) for n in (1, 16))
    np.testing.assert_allclose(one.effect, many.effect, rtol=1e-3, atol=1e-6)


def test_what_comes_after_the_prediction_has_no_effect() -> None:
    found = residual_erasure(shared_model("llama"), ASKED[0], ANSWERS[0], mean_over=PROMPTS).effect[0]
    np.testing.assert_allclose(found[:, -1], 0, atol=1e-6)
    assert (found[:4, :-1] > 1e-5).all()
    # What leaves the last block is read by its own position alone.
    np.testing.assert_allclose(found[4, :4], 0, atol=1e-6)
    assert (found[4, 4:6] > 1e-3).all()


def test_a_token_erased_to_itself_stays() -> None:
    found = residual_erasure(shared_model("llama"), ASKED[0], ANSWERS[0], mean_over=[ASKED[0][:1]]).effect[0]
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-6)
    assert (found[0, 1:-1] > 1e-5).all()


def test_blocks_with_zero_output_carry_nothing_to_other_tokens() -> None:
    hf_model = tiny_transformers_model("llama")
    with torch.no_grad():
        for layer in hf_model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    found = residual_erasure(bridge_of(hf_model), ASKED[0], ANSWERS[0], mean_over=PROMPTS).effect[0]
    np.testing.assert_allclose(found[:, [0, 1, 2, 3, 6]], 0, atol=1e-6)
    for state in range(1, 5):
        np.testing.assert_allclose(found[state], found[0], rtol=1e-4, atol=1e-6)
    assert (found[0, 4:6] > 1e-3).all()


def test_tokens_are_labelled(tiny_with_tokenizer: Any) -> None:
    asked, answers = ["the river rises", "is it"], ["in a wood", "deep"]
    found = residual_erasure(tiny_with_tokenizer, asked, answers, mean_over=["a cold wood"])
    assert found.token_text.values.tolist() == [
        ["<s>", "the", "river", "rises", "in", "a", "wood"],
        ["<s>", "is", "it", "deep", "", "", ""],
    ]
    assert found.answer.values.sum(1).tolist() == [3, 1]
    assert found.answer.values[1].tolist() == [False, False, False, True, False, False, False]
    assert found.valid.values.sum(1).tolist() == [7, 4]
    assert found.special.values[0].tolist() == [True] + 6 * [False]
    assert found.token_id.values[1, 4:].tolist() == [-1, -1, -1]


def test_progress_and_attributes() -> None:
    calls = []
    found = residual_erasure(
        shared_model("llama"),
        ASKED,
        ANSWERS,
        mean_over=PROMPTS,
        mean_data="words",
        progress=lambda done, of: calls.append((done, of)),
    )
    assert calls == [(done, 10) for done in range(1, 11)]
    assert found.attrs["preset"] == CSORDAS_ERASURE.name
    assert found.attrs["departures"] == "mean_data = words (paper: GSM8K), mean_prompts = 4 (paper: 10)"
    unnamed = residual_erasure(shared_model("llama"), ASKED, ANSWERS, mean_over=PROMPTS)
    assert unnamed.attrs["departures"].startswith("mean_data not named (paper: GSM8K)")
    assert (
        found.attrs["positions"] == "each token erased in turn, to the mean residual of all tokens of 4 other prompts"
    )
    assert all(isinstance(value, (str, int)) for value in found.attrs.values())


def test_what_cannot_be_is_refused_in_words() -> None:
    model = shared_model("llama")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        residual_erasure(model, ASKED, ANSWERS, mean_over=PROMPTS, batch_size=0)
    with pytest.raises(ValueError, match=r"no token is left for the mean residual: the 1 prompts of mean_over="):
        residual_erasure(model, ASKED, ANSWERS, mean_over=[[12]], exclude_sinks=True)
    with pytest.raises(InputError, match="responses= has 1 answers for 2 inputs"):
        residual_erasure(model, ASKED, ANSWERS[:1], mean_over=PROMPTS)
    with pytest.raises(InputError, match="prompt 0 has 130 tokens"):
        residual_erasure(model, [[5] * 128], [[6, 7]], mean_over=PROMPTS)


def test_the_model_is_left_as_it_was_also_after_an_error() -> None:
    model = tiny_model("llama")

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    model(torch.tensor(PROMPTS[:1]))  # a bridge hooks modules of its own on its first pass
    with unchanged(model), pytest.raises(KeyboardInterrupt):
        residual_erasure(model, ASKED, ANSWERS, mean_over=PROMPTS, progress=stop)
