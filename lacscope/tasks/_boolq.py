"""BoolQ: does a passage answer its question with yes (Clark et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lacscope.tasks._base import BooleanAnswers, HubSource, Question, Row, check_request, numbered
from lacscope.tasks._fields import flag_of, id_of, text_of
from lacscope.tasks._templates import paper_boolean, plain_boolean


@dataclass(frozen=True)
class BoolQ(BooleanAnswers):
    """BoolQ's validation set: 3,270 questions, 62 % of them true.

    Style "paper": the paper's prompt, choices True and False. "plain": choices yes and no.
    The questions come in lower case and without a question mark; "plain" adds the mark.
    """

    name: ClassVar[str] = "boolq"
    private: ClassVar[bool] = False
    chance: ClassVar[float | None] = 0.5
    styles: ClassVar[tuple[str, ...]] = ("paper", "plain")
    scorings: ClassVar[tuple[str, ...]] = ("choice", "generated")
    hub: ClassVar[HubSource | None] = HubSource("google/boolq", None, "validation")
    licence: ClassVar[str] = "CC BY-SA 3.0"
    source: ClassVar[str] = "https://github.com/google-research-datasets/boolean-questions"
    group_by: ClassVar[str | None] = None

    def normalise(self, raw: Row) -> dict[str, Any]:
        """Fields id, question, passage, answer."""
        return {
            "id": id_of(raw, "id", "idx"),
            "question": text_of(raw, "question"),
            "passage": text_of(raw, "passage"),
            "answer": flag_of(raw, "answer", "label"),
        }

    def questions(self, rows: Sequence[Row], style: str, *, seed: int, shots: Sequence[Row] = ()) -> list[Question]:
        """The rows' questions in this style; nothing depends on the seed."""
        check_request(self, rows, style, seed, shots)
        return [self._question(sample, row, style) for sample, row in numbered(rows)]

    def _question(self, sample: int, row: Row, style: str) -> Question:
        passage, question = row["passage"], row["question"]
        target = 0 if row["answer"] else 1
        if style == "paper":
            prompt, choices = paper_boolean(passage, question), ("True", "False")
        else:
            prompt, choices = plain_boolean(passage, question.removesuffix("?") + "?"), ("yes", "no")
        return Question(sample, row.get("id", ""), prompt, True, choices, target, choices[target])
