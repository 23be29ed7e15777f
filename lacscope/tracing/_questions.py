"""Questions as token ids: what a model really reads, hashed, and cut into shards by length."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lacscope.models.adapters import Adapter
from lacscope.tasks._base import Question
from lacscope.tasks._thoughts import ends_in_thought
from lacscope.tracing._inputs import InputError, read_inputs, read_responses
from lacscope.tracing._token_text import answer_text

_MARK_LENGTH = 16  # tokens: an opening mark and the line breaks after it are fewer


@dataclass(frozen=True)
class ReadQuestion:
    """One question with its prompt and choices as token ids."""

    question: Question
    prompt: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class WrittenAnswer:
    """A generated answer. ``whole`` is what a parser reads: with the thought's mark that its prompt ends in."""

    text: str
    whole: str


def read_answers(
    tokenizer: Any, read: Sequence[ReadQuestion], produced: Sequence[Sequence[int]]
) -> list[WrittenAnswer]:
    """The answers of these token ids, in the questions' order."""
    answers = []
    for one, ids in zip(read, produced, strict=True):
        text = answer_text(tokenizer, ids)
        opened = ends_in_thought(str(tokenizer.decode(list(one.prompt[-_MARK_LENGTH:]))))
        answers.append(WrittenAnswer(text, f"<think>{text}" if opened else text))
    return answers


def read_questions(adapter: Adapter, questions: Sequence[Question]) -> list[ReadQuestion]:
    """Prompts and choices as this model's tokens, shortest prompt first (ties: by sample).

    The order is what shards and batches are cut from: a batch then pads little.
    """
    read = []
    for one in questions:
        given = [[{"role": "user", "content": one.prompt}]] if one.chat else [one.prompt]
        (prompt,) = read_inputs(adapter, given, chat_template_kwargs=one.chat_template_kwargs)
        choices = read_responses(adapter, list(one.choices), len(one.choices)) if one.choices else []
        read.append(ReadQuestion(one, tuple(prompt), tuple(tuple(ids) for ids in choices)))
    return sorted(read, key=lambda one: (len(one.prompt), one.question.sample))


def check_context(adapter: Adapter, read: Sequence[ReadQuestion], max_new_tokens: int) -> None:
    """Raise InputError, naming the samples, where a prompt with its longest answer does not fit the context.

    Before the first shard: the longest prompts come last.
    """
    limit = adapter.context_length
    if limit is None:
        return
    answers = [max([max_new_tokens - 1, *(len(ids) for ids in one.choices)]) for one in read]
    over = [one.question.sample for one, n in zip(read, answers, strict=True) if len(one.prompt) + n > limit]
    if over:
        raise InputError(
            f"{len(over)} of {len(read)} questions do not fit the {limit} tokens of {adapter.name} with their answers, "
            f"among them sample {over[0]}. Leave them out, give fewer shots, or lower max_new_tokens."
        )


def digest(read: Sequence[ReadQuestion]) -> str:
    """sha256 over all that is read and what counts as right: changes with data, style, template or tokenizer."""
    rows = [[r.question.sample, r.prompt, r.choices, r.question.target, r.question.answer] for r in read]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def single_token(read: Sequence[ReadQuestion]) -> bool:
    """True where each question has several choices of one token each, all scored after reading the prompt alone."""
    return all(len(r.choices) > 1 and all(len(ids) == 1 for ids in r.choices) for r in read)
