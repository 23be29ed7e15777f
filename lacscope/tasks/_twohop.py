"""Two-hop questions, each with the two one-hop questions that it is made of (Biran et al. 2024)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lacscope.tasks._answers import parse_option
from lacscope.tasks._base import HubSource, Question, Row, check_request, numbered
from lacscope.tasks._fields import FieldError, id_of, text_of, texts_of
from lacscope.tasks._thoughts import without_thoughts

ONE_HOP = "1 hop"
TWO_HOPS = "2 hops"
PER_ROW = 3


@dataclass(frozen=True)
class TwoHop:
    """Questions of one and of two hops about the same facts, from a local file: for the depth score.

    A row gives three questions, read as raw text ``Question: ...\\nAnswer:``: its first hop, whose answer is the
    bridge, its second hop, whose question names the bridge, and both hops in one, which does not. The last two have
    the same answer. ``group`` is "1 hop" or "2 hops", ``sample`` three times the row's number and 0, 1 or 2 in this
    order. Many rows share a second hop ("What is the capital of Norway?"), so one-hop samples repeat each other.

    The one choice is a space and the answer's name, scored teacher-forced. Answers are not generated for a score:
    an answer by another of its names would be counted wrong.

    Rows have ``question``, ``hop1_question``, ``hop2_question``, ``answer`` and ``bridge``: a name, or the list of
    its names, of which the longest that stands in ``hop2_question`` is the first hop's answer.
    """

    name: ClassVar[str] = "twohop"
    private: ClassVar[bool] = False
    chance: ClassVar[float | None] = None
    styles: ClassVar[tuple[str, ...]] = ("plain",)
    scorings: ClassVar[tuple[str, ...]] = ("choice",)
    hub: ClassVar[HubSource | None] = None
    licence: ClassVar[str] = "MIT"
    source: ClassVar[str] = "https://github.com/edenbiran/HoppingTooLate"
    group_by: ClassVar[str | None] = None

    def normalise(self, raw: Row) -> dict[str, Any]:
        """Fields id, question, hop1_question, hop2_question, bridge (the first hop's answer), answer."""
        second = text_of(raw, "hop2_question")
        return {
            "id": id_of(raw, "id"),
            "question": text_of(raw, "question"),
            "hop1_question": text_of(raw, "hop1_question"),
            "hop2_question": second,
            "bridge": _bridge_of(raw, second),
            "answer": text_of(raw, "answer"),
        }

    def questions(self, rows: Sequence[Row], style: str, *, seed: int, shots: Sequence[Row] = ()) -> list[Question]:
        """Three questions a row: first hop, second hop, both; nothing depends on the seed."""
        check_request(self, rows, style, seed, shots)
        return [question for sample, row in numbered(rows) for question in _questions_of(sample, row)]

    def parse(self, text: str, question: Question) -> int | str | None:
        """0 where the answer's name stands on the first line."""
        return parse_option(without_thoughts(text).strip().split("\n", 1)[0], [question.answer])

    def right(self, parsed: int | str | None, question: Question) -> bool:
        """Whether it is the target."""
        return parsed is not None and parsed == question.target


def _questions_of(sample: int, row: Row) -> list[Question]:
    asked = (
        (ONE_HOP, "hop 1", row["hop1_question"], row["bridge"]),
        (ONE_HOP, "hop 2", row["hop2_question"], row["answer"]),
        (TWO_HOPS, "both hops", row["question"], row["answer"]),
    )
    return [
        Question(
            sample=PER_ROW * sample + place,
            id=f"{row.get('id', '')} {hops}".strip(),
            prompt=f"Question: {question}\nAnswer:",
            chat=False,
            choices=(f" {answer}",),
            target=0,
            answer=answer,
            group=group,
        )
        for place, (group, hops, question, answer) in enumerate(asked)
    ]


def _bridge_of(raw: Row, second: str) -> str:
    given = text_of(raw, "bridge") if isinstance(raw.get("bridge"), str) else ""
    names = [given] if given and not given.startswith("[") else texts_of(raw, "bridge", blank=True)
    standing = [name for name in names if name and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", second)]
    if not standing:
        raise FieldError("no name in field 'bridge' stands in 'hop2_question'")
    return max(standing, key=len)
