"""LAMBADA: the last word of a passage (Paperno et al. 2016; OpenAI's detokenised variant)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lacscope.tasks._answers import first_word
from lacscope.tasks._base import HubSource, Question, Row, check_request, numbered
from lacscope.tasks._fields import FieldError, id_of, text_of


@dataclass(frozen=True)
class Lambada:
    """LAMBADA's test set: 5,153 passages, read as raw text, whose last word is to follow.

    The one choice is a space and that word, scored teacher-forced. A generated answer is right when its first
    word is the passage's last, letter for letter. The text is split at its last space, as the usual harness does.
    """

    name: ClassVar[str] = "lambada"
    private: ClassVar[bool] = False
    chance: ClassVar[float | None] = None
    styles: ClassVar[tuple[str, ...]] = ("plain",)
    scorings: ClassVar[tuple[str, ...]] = ("choice", "generated")
    hub: ClassVar[HubSource | None] = HubSource("EleutherAI/lambada_openai", "default", "test")
    licence: ClassVar[str] = "CC BY 4.0 (text), modified MIT (OpenAI's variant)"
    source: ClassVar[str] = "https://zenodo.org/record/2630551"
    group_by: ClassVar[str | None] = None

    def normalise(self, raw: Row) -> dict[str, Any]:
        """Fields id, context, target."""
        if "context" in raw or "target" in raw:
            context, target = text_of(raw, "context", blank=True), text_of(raw, "target", blank=True)
        else:
            context, _, target = text_of(raw, "text", blank=True).rpartition(" ")
        if not context.strip() or first_word(target) is None:
            raise FieldError("field 'text' is not a passage with a last word")
        return {"id": id_of(raw, "id"), "context": context, "target": target}

    def questions(self, rows: Sequence[Row], style: str, *, seed: int, shots: Sequence[Row] = ()) -> list[Question]:
        """The passages without their last word; nothing depends on the seed."""
        check_request(self, rows, style, seed, shots)
        return [
            Question(
                sample, row.get("id", ""), row["context"], False, (f" {row['target']}",), 0,
                first_word(row["target"]) or "",
            )
            for sample, row in numbered(rows)
        ]  # fmt: skip

    def parse(self, text: str, question: Question) -> int | str | None:
        """The answer's first word."""
        return first_word(text)

    def right(self, parsed: int | str | None, question: Question) -> bool:
        """Whether it is the passage's last word."""
        return parsed is not None and parsed == question.answer
