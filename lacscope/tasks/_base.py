"""What a benchmark is: rows in, questions out, and how a generated answer is judged. No model.

A task is a small frozen dataclass in a file of its own. It renders rows (as ``lacscope.tasks.read_rows``
gives them) into questions, in a named style, and parses what a model answered.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from lacscope.guards._arguments import did_you_mean, flag, whole_number
from lacscope.tasks._answers import parse_boolean, parse_letter, parse_option
from lacscope.tasks._thoughts import without_thoughts

Row = Mapping[str, Any]


@dataclass(frozen=True)
class HubSource:
    """Where the hub keeps a data set: for ``datasets.load_dataset(path, config, split=split)``.

    ``shots_split`` names the split of the few-shot examples, None where a task has none.
    """

    path: str
    config: str | None
    split: str
    shots_split: str | None = None

    @property
    def url(self) -> str:
        """The data set's page."""
        return f"https://huggingface.co/datasets/{self.path}"


@dataclass(frozen=True)
class Question:
    """One question rendered in one style.

    The data set's texts stay out of ``repr``, so that a log or a traceback never shows a private task.

    Attributes:
        sample: row number in the data set; names the sample everywhere.
        id: the data set's own id, "" if none.
        prompt: the text to be read.
        chat: True: sent as the user's message through the chat template; False: raw text.
        choices: answer texts scored by log-probability, in order. A single one is the right answer itself,
            scored teacher-forced; () where there is none.
        target: index of the right choice, -1 where there are no choices.
        answer: the right answer as text, for generated scoring.
        group: MMLU's subject, the two-hop set's number of hops, "" elsewhere.
        order: the order of shuffled options; shown option i is the data set's option ``order[i]``.
        options: the options' texts as shown, where ``choices`` are only their letters.
        chat_template_kwargs: options of the chat template (``enable_thinking``), where ``chat``.

    Raises:
        ValueError: the target is not the index of a choice, or a field is of another kind.

    >>> Question(0, "q-1", "Is the sky blue?", True, ("yes", "no"), 0, "yes")
    Question(sample=0, id='q-1', chat=True, target=0, group='', order=())
    """

    sample: int
    id: str
    prompt: str = field(repr=False)
    chat: bool
    choices: tuple[str, ...] = field(repr=False)
    target: int
    answer: str = field(repr=False)
    group: str = ""
    order: tuple[int, ...] = ()
    options: tuple[str, ...] = field(default=(), repr=False)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        whole_number("sample", self.sample)
        flag("chat", self.chat)
        # The texts may be private: only their kinds are said.
        for name in ("id", "prompt", "answer", "group"):
            if not isinstance(getattr(self, name), str):
                kind = type(getattr(self, name)).__name__
                raise ValueError(f"sample {self.sample}: {name} must be text, not {kind}.")
        for name in ("choices", "options"):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(t, str) for t in given):
                kind = type(given).__name__
                raise ValueError(f"sample {self.sample}: {name} must be a tuple of texts, not {kind}.")
            object.__setattr__(self, name, tuple(given))
        possible = range(len(self.choices)) if self.choices else range(-1, 0)
        if self.target not in possible:
            raise ValueError(
                f"sample {self.sample}: target {self.target} is not the index of one of {len(self.choices)} choices "
                "(-1 where there are none)."
            )


@runtime_checkable
class Task(Protocol):
    """A benchmark. ``styles[0]`` is the style to use where none is named.

    ``private``: its texts must never be written out. ``chance``: accuracy of a blind guess, in [0, 1], None where
    there is none. ``scorings``: of "choice" and "generated". ``hub``: None where the rows are packaged.
    ``group_by``: the row's field by which samples are stratified, None for none.
    """

    @property
    def name(self) -> str: ...
    @property
    def private(self) -> bool: ...
    @property
    def chance(self) -> float | None: ...
    @property
    def styles(self) -> tuple[str, ...]: ...
    @property
    def scorings(self) -> tuple[str, ...]: ...
    @property
    def hub(self) -> HubSource | None: ...
    @property
    def licence(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def group_by(self) -> str | None: ...

    def normalise(self, raw: Row) -> dict[str, Any]:
        """A row with the hub's field names, or ours, as a row with ours. Raises FieldError."""
        ...

    def questions(self, rows: Sequence[Row], style: str, *, seed: int, shots: Sequence[Row] = ()) -> list[Question]:
        """The rows' questions in this style; ``seed`` matters only where options are shuffled.

        Raises:
            ValueError: an unknown style, or shots for a task (or a subject) that has none.
        """
        ...

    def parse(self, text: str, question: Question) -> int | str | None:
        """A generated answer: the index of a choice, or the answer's text; None where it cannot be parsed."""
        ...

    def right(self, parsed: int | str | None, question: Question) -> bool:
        """Whether a parsed answer is the right one; an unparseable one is not."""
        ...


@runtime_checkable
class Packaged(Protocol):
    """A task whose rows come with lacscope."""

    def packaged(self) -> list[dict[str, Any]]: ...


class LetterAnswers:
    """Parsing for tasks whose choices are option letters."""

    def parse(self, text: str, question: Question) -> int | str | None:
        """Index of the option that the answer names."""
        return parse_letter(text, len(question.choices), question.options)

    def right(self, parsed: int | str | None, question: Question) -> bool:
        """Whether it is the target."""
        return parsed is not None and parsed == question.target


class OptionAnswers(LetterAnswers):
    """Parsing for tasks whose choices are option letters in chat, and the options' own texts in raw text."""

    def parse(self, text: str, question: Question) -> int | str | None:
        """Index of the option named: by letter or text in chat, by its text on the first line in raw text."""
        if question.chat:
            return super().parse(text, question)
        first_line = without_thoughts(text).strip().split("\n", 1)[0]
        return parse_option(first_line, question.options)


class BooleanAnswers:
    """Parsing for tasks whose choices are (true, false) in some wording."""

    def parse(self, text: str, question: Question) -> int | str | None:
        """0 for true or yes, 1 for false or no."""
        said = parse_boolean(text)
        return None if said is None else int(not said)

    def right(self, parsed: int | str | None, question: Question) -> bool:
        """Whether it is the target."""
        return parsed is not None and parsed == question.target


def prompt_format(chat: bool, style: str) -> str:
    """How a prompt is put to a model, in words: what results and presets say of it.

    >>> prompt_format(chat=True, style="plain"), prompt_format(chat=False, style="csordas")
    ('chat template in style plain', 'raw text in style csordas')
    """
    return f"{'chat template' if chat else 'raw text'} in style {style}"


def asked_with(questions: Sequence[Question], options: Mapping[str, Any]) -> list[Question]:
    """The questions with these options of the chat template, where they are sent through it."""
    return [replace(one, chat_template_kwargs=dict(options)) if one.chat else one for one in questions]


class _NumberedRow(dict[str, Any]):
    """A row that says which field it lacks."""

    def __missing__(self, name: str) -> Any:
        raise ValueError(
            f"row {self.get('sample')} has no field {name!r}: give rows as read_rows(task, data) returns them, or as "
            "the task's normalise(row) does."
        )


def numbered(rows: Sequence[Row]) -> Iterator[tuple[int, Row]]:
    """Each row with its sample number: the field ``sample`` that ``read_rows`` adds, else its place here."""
    for place, row in enumerate(rows):
        sample = whole_number(f"rows[{place}]['sample']", row.get("sample", place))
        yield sample, _NumberedRow({**row, "sample": sample})


def check_request(task: Task, rows: Sequence[Row], style: str, seed: int, shots: Sequence[Row]) -> None:
    """Raise ValueError unless rows can be rendered so: the style, the examples, the kinds of what is given."""
    for name, given in (("rows", rows), ("shots", shots)):
        if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(r, Mapping) for r in given):
            raise ValueError(
                f"{name} must be a list of rows (dicts), as read_rows(task, data) returns them, not "
                f"{type(given).__name__}."
            )
    whole_number("seed", seed)
    if style not in task.styles:
        raise ValueError(
            f"{task.name} has no style {style!r}; choose one of {', '.join(map(repr, task.styles))}."
            f"{did_you_mean(style, task.styles)}"
        )
    if shots and (task.hub is None or task.hub.shots_split is None):
        raise ValueError(f"{task.name} takes no few-shot examples, {len(shots)} were given; leave shots empty.")
