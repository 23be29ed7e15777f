"""Choices scored without a trace, against one pass for each token of each choice."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lacscope.model_measures._choices import score_choices
from lacscope.tasks._base import Question

PROMPTS = ("the river rises in a wood", "is it deep", "a cold river rises in the deep wood is it cold")
CHOICES = ("deep wood", "cold", "the river is cold")


def asked(n_choices: int = 3) -> list[Question]:
    return [
        Question(10 - i, "", prompt, False, CHOICES[:n_choices], i % n_choices, CHOICES[i % n_choices], group=f"g{i}")
        for i, prompt in enumerate(PROMPTS)
    ]


@torch.no_grad()
def direct(model: Any, prompt: str, choice: str) -> tuple[float, list[bool]]:
    """Summed log-probability of the choice's tokens, and for each whether it was the likeliest."""
    ids = model.to_tokens(prompt)[0].tolist()
    logp, top = 0.0, []
    for token in model.tokenizer(choice, add_special_tokens=False)["input_ids"]:
        logits = model.original_model(torch.tensor([ids])).logits[0, -1].double()
        logp += float(torch.log_softmax(logits, -1)[token])
        top.append(int(logits.argmax()) == token)
        ids.append(token)
    return logp, top


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("n_choices", [1, 3])
def test_scores_are_those_of_one_pass_a_token(tiny_with_tokenizer: Any, n_choices: int, batch_size: int) -> None:
    questions = asked(n_choices)
    found = score_choices(tiny_with_tokenizer, questions, batch_size=batch_size)
    assert found["sample"].tolist() == [10, 9, 8], "in the order given"
    for row, one in zip(found.itertuples(), questions, strict=True):
        each = [direct(tiny_with_tokenizer, one.prompt, choice) for choice in one.choices]
        logp, top = each[one.target]
        assert row.target_logp == pytest.approx(logp, abs=1e-4)
        assert row.token_accuracy == pytest.approx(np.mean(top))
        assert row.target_tokens == len(top)
        picked = int(np.argmax([each_logp for each_logp, _ in each])) if n_choices > 1 else -1
        assert row.picked == picked
        assert row.correct == (picked == one.target if n_choices > 1 else all(top))


def test_what_is_done_to_the_model_counts(tiny_with_tokenizer: Any) -> None:
    plain = score_choices(tiny_with_tokenizer, asked())
    with tiny_with_tokenizer.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda stream, hook: stream.flip(-1))]):
        changed = score_choices(tiny_with_tokenizer, asked())
    assert (plain["target_logp"] - changed["target_logp"]).abs().min() > 1e-4


def test_a_sample_that_is_asked_twice_has_two_rows(tiny_with_tokenizer: Any) -> None:
    apart = score_choices(tiny_with_tokenizer, asked())
    same_number = [replace(one, sample=7) for one in asked()]
    found = score_choices(tiny_with_tokenizer, [*same_number, same_number[0]])
    assert found["sample"].tolist() == [7, 7, 7, 7]
    assert found["group"].tolist() == ["g0", "g1", "g2", "g0"]
    np.testing.assert_allclose(found["target_logp"], [*apart["target_logp"], apart["target_logp"][0]], atol=1e-4)


def test_progress_counts_rows_and_a_question_without_choices_is_refused(tiny_with_tokenizer: Any) -> None:
    seen: list[tuple[int, int]] = []
    score_choices(tiny_with_tokenizer, asked(), batch_size=4, progress=lambda done, n: seen.append((done, n)))
    assert seen == [(4, 9), (8, 9), (9, 9)]
    with pytest.raises(ValueError, match="sample 3 has no choices to score"):
        score_choices(tiny_with_tokenizer, [Question(3, "", "is it", False, (), -1, "")])
