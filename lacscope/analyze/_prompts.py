"""What an analysis reads: questions of a benchmark with their right answers, or passages of a text file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lacscope.analyze._passages import PromptsError as PromptsError
from lacscope.analyze._passages import read_passages
from lacscope.models._model import Model
from lacscope.models.adapters import adapt
from lacscope.tasks._base import Question, asked_with, prompt_format
from lacscope.tasks._data import read_rows
from lacscope.tasks._registry import task as task_named
from lacscope.tasks._selection import choose
from lacscope.tracing._inputs import read_inputs, read_responses

# Every task of lacscope's has it; lettered options, such as ARC's other style, small models cannot read.
STYLE = "plain"
CALIBRATION = 4  # every fourth question is fitted on, and the others are answered
RAW_TEXT = "raw text"


@dataclass(frozen=True)
class Prompts:
    """Prompts as token ids, with their answers where the data have any.

    Attributes:
        name: their name in the figures: ``"gsm8k"``.
        inputs: token ids of each prompt.
        responses: token ids of each right answer; None where there are none.
        questions: the questions that they were made of; () for a text.
        tasks: the benchmark of each question.
        max_tokens: the number of tokens that the inputs were cut to; None for whole ones.
        prompt_format: the form in which they are put to the model, in words; "" where that is not known.
    """

    name: str
    inputs: tuple[tuple[int, ...], ...]
    responses: tuple[tuple[int, ...], ...] | None = None
    questions: tuple[Question, ...] = ()
    tasks: tuple[str, ...] = ()
    max_tokens: int | None = None
    prompt_format: str = ""

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def private(self) -> bool:
        """Whether one of the benchmarks is private: its texts are then written nowhere."""
        return any(task_named(name).private for name in self.task_names)

    @property
    def whole(self) -> list[list[int]]:
        """Each prompt with its answer after it."""
        answers = self.responses or ((),) * len(self)
        return [[*prompt, *answer] for prompt, answer in zip(self.inputs, answers, strict=True)]

    def part(self, start: int, stop: int) -> "Prompts":
        """Some of them, in order."""
        return self._at(range(len(self))[start:stop])

    def distinct(self) -> "Prompts":
        """Each question once, though several rows of a data set ask it."""
        first: dict[tuple[int, ...], int] = {}
        for place, ids in enumerate(self.whole):
            first.setdefault(tuple(ids), place)
        return self._at(list(first.values()))

    def apart(self, every: int) -> "tuple[Prompts, Prompts]":
        """Every ``every``-th prompt of each benchmark; and the others, but those that one of the former repeats."""
        tasks = self.tasks or ("",) * len(self)
        by_task = [[i for i, task in enumerate(tasks) if task == name] for name in dict.fromkeys(tasks)]
        taken = [i for places in by_task for i in places[::every]]
        known = {self.inputs[i] for i in taken}
        return self._at(taken), self._at([i for i, ids in enumerate(self.inputs) if ids not in known])

    def _at(self, places: Sequence[int]) -> "Prompts":
        return replace(
            self,
            inputs=tuple(self.inputs[i] for i in places),
            responses=None if self.responses is None else tuple(self.responses[i] for i in places),
            questions=tuple(self.questions[i] for i in places) if self.questions else (),
            tasks=tuple(self.tasks[i] for i in places) if self.tasks else (),
        )

    @property
    def task_names(self) -> list[str]:
        """The benchmarks, each once."""
        return list(dict.fromkeys(self.tasks))

    def of_task(self, name: str) -> list[Question]:
        """One benchmark's questions."""
        return [one for one, task in zip(self.questions, self.tasks, strict=True) if task == name]


def too_alike(model: Model, prompts: Prompts) -> str:
    """In words, that calibration leaves no question to be answered; "" where some are left."""
    if len(prompts.apart(CALIBRATION)[1]):
        return ""
    return f"it calibrates on one question in {CALIBRATION} and answers the others; none is left, for all are alike"


def task_prompts(
    model: Model,
    names: Sequence[str],
    *,
    data: Mapping[str, Path],
    limit: int | None,
    seed: int = 0,
    style: str = "",
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Prompts:
    """Questions of benchmarks, a seeded sample of each, with their right answers.

    Args:
        names: the names of the tasks.
        data: a local file for each task; a task without one reads what is packaged, else the hub.
        limit: the number of questions of each; None for all.
        style: the style in which they are read, of tasks that have it; of others, and where it is "", the usual one.
        chat_template_kwargs: options of the chat template, for the questions that are sent through it.

    Raises:
        ValueError: an unknown task.
    """
    adapter = adapt(model)
    asked: list[tuple[str, Question]] = []
    formats: dict[str, str] = {}
    for name in names:
        task = task_named(name)
        own = next((one for one in (style, STYLE) if one in task.styles), task.styles[0])
        rows = read_rows(task, data.get(name))
        chosen = choose(rows, limit, seed, task.group_by)
        made = task.questions([rows[i] for i in chosen], own, seed=seed)
        asked += [(name, one) for one in asked_with(made, chat_template_kwargs or {})]
        formats[name] = prompt_format(made[-1].chat, own)
    questions = tuple(one for _, one in asked)
    answers = read_responses(adapter, [one.choices[one.target] for one in questions], len(questions))
    options = ", ".join(f"{name} = {json.dumps(value)}" for name, value in (chat_template_kwargs or {}).items())
    return Prompts(
        ", ".join(names) + (f", chat template with {options}" if options else ""),
        tuple(tuple(_tokens(adapter, one)) for one in questions),
        tuple(map(tuple, answers)),
        questions,
        tuple(name for name, _ in asked),
        prompt_format=_in_one(formats),
    )


def _in_one(formats: Mapping[str, str]) -> str:
    """The form of all benchmarks, named by benchmark where they differ."""
    if len(set(formats.values())) == 1:
        return next(iter(formats.values()))
    return "; ".join(f"{name}: {said}" for name, said in formats.items())


def _tokens(adapter: Any, one: Question) -> list[int]:
    (ids,) = read_inputs(
        adapter,
        [[{"role": "user", "content": one.prompt}]] if one.chat else [one.prompt],
        chat_template_kwargs=one.chat_template_kwargs,
    )
    return ids


def text_prompts(
    model: Model, path: Path, *, limit: int | None, max_tokens: int | None = None, seed: int = 0
) -> Prompts:
    """Passages of a text file (see :func:`~lacscope.analyze._passages.read_passages`), a seeded sample.

    They are cut to ``max_tokens``.

    Raises:
        PromptsError: the text has no passage.
    """
    passages = read_passages(path)
    inputs = []
    for index in choose([{}] * len(passages), limit, seed):
        (ids,) = read_inputs(adapt(model), [passages[index]])
        inputs.append(tuple(ids[:max_tokens]))
    cut = "" if max_tokens is None else f", first {max_tokens} tokens of a passage"
    return Prompts(path.name.removesuffix(".gz") + cut, tuple(inputs), max_tokens=max_tokens, prompt_format=RAW_TEXT)
