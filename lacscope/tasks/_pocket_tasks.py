"""The packaged pocket set as two tasks, in the paper's templates and in plain words."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from lacscope.tasks._base import BooleanAnswers, HubSource, LetterAnswers, Question, Row, check_request, numbered
from lacscope.tasks._fields import flag_of, id_of, index_of, text_of, texts_of
from lacscope.tasks._letters import letters
from lacscope.tasks._pocket import load_pocket
from lacscope.tasks._templates import paper_boolean, paper_options, plain_boolean, plain_options


@dataclass(frozen=True)
class PocketBoolean(BooleanAnswers):
    """48 short passages with a yes/no question, 24 answers each way; "paper" is the paper's BoolQ prompt."""

    name: ClassVar[str] = "pocket_boolean"
    private: ClassVar[bool] = False
    chance: ClassVar[float | None] = 0.5
    styles: ClassVar[tuple[str, ...]] = ("paper", "plain")
    scorings: ClassVar[tuple[str, ...]] = ("choice", "generated")
    hub: ClassVar[HubSource | None] = None
    licence: ClassVar[str] = "MIT"
    source: ClassVar[str] = "lacscope"
    group_by: ClassVar[str | None] = None

    def packaged(self) -> list[dict[str, Any]]:
        """The rows that come with lacscope."""
        return [asdict(item) for item in load_pocket("yes_no")]

    def normalise(self, raw: Row) -> dict[str, Any]:
        """Fields id, question, passage, answer."""
        return {
            "id": id_of(raw, "id"),
            "question": text_of(raw, "question"),
            "passage": text_of(raw, "passage"),
            "answer": flag_of(raw, "answer"),
        }

    def questions(self, rows: Sequence[Row], style: str, *, seed: int, shots: Sequence[Row] = ()) -> list[Question]:
        """The rows' questions in this style; nothing depends on the seed."""
        check_request(self, rows, style, seed, shots)
        render, choices = (
            (paper_boolean, ("True", "False")) if style == "paper" else (plain_boolean, ("yes", "no"))
        )  # fmt: skip
        made = []
        for sample, row in numbered(rows):
            target = 0 if row["answer"] else 1
            prompt = render(row["passage"], row["question"])
            made.append(Question(sample, row.get("id", ""), prompt, True, choices, target, choices[target]))
        return made


@dataclass(frozen=True)
class PocketOptions(LetterAnswers):
    """48 four-option questions, 12 right answers in each place; "paper" is the paper's MMLU prompt."""

    name: ClassVar[str] = "pocket_options"
    private: ClassVar[bool] = False
    chance: ClassVar[float | None] = 0.25
    styles: ClassVar[tuple[str, ...]] = ("paper", "plain")
    scorings: ClassVar[tuple[str, ...]] = ("choice", "generated")
    hub: ClassVar[HubSource | None] = None
    licence: ClassVar[str] = "MIT"
    source: ClassVar[str] = "lacscope"
    group_by: ClassVar[str | None] = None

    def packaged(self) -> list[dict[str, Any]]:
        """The rows that come with lacscope."""
        return [asdict(item) for item in load_pocket("multiple_choice")]

    def normalise(self, raw: Row) -> dict[str, Any]:
        """Fields id, question, choices, answer (an index)."""
        choices = texts_of(raw, "choices")
        return {
            "id": id_of(raw, "id"),
            "question": text_of(raw, "question"),
            "choices": choices,
            "answer": index_of(raw, len(choices), "answer"),
        }

    def questions(self, rows: Sequence[Row], style: str, *, seed: int, shots: Sequence[Row] = ()) -> list[Question]:
        """The rows' questions in this style; nothing depends on the seed."""
        check_request(self, rows, style, seed, shots)
        render = paper_options if style == "paper" else plain_options
        made = []
        for sample, row in numbered(rows):
            options, target = tuple(row["choices"]), row["answer"]
            choices, prompt = letters(len(options)), render(row["question"], options)
            made.append(
                Question(sample, row.get("id", ""), prompt, True, choices, target, choices[target], options=options)
            )
        return made
