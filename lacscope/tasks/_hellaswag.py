"""HellaSwag: which of four endings goes on from a text (Zellers et al. 2019)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lacscope.tasks._base import HubSource, OptionAnswers, Question, Row, check_request, numbered
from lacscope.tasks._fields import FieldError, id_of, index_of, text_of, texts_of
from lacscope.tasks._letters import letters
from lacscope.tasks._templates import plain_options

N_ENDINGS = 4


@dataclass(frozen=True)
class HellaSwag(OptionAnswers):
    """HellaSwag's validation set: 10,042 texts with four endings, one of them the real one.

    Style "plain": raw text ``Activity: context``, each ending a choice, cleaned of WikiHow's marks as the usual
    harness does. Scores are of whole endings, not divided by their length (the harness's ``acc``, not ``acc_norm``).
    Style "letters": lettered endings in chat, the letters as choices.
    The test set's answers are not published, so its rows are refused.
    """

    name: ClassVar[str] = "hellaswag"
    private: ClassVar[bool] = False
    chance: ClassVar[float | None] = 0.25
    styles: ClassVar[tuple[str, ...]] = ("plain", "letters")
    scorings: ClassVar[tuple[str, ...]] = ("choice", "generated")
    hub: ClassVar[HubSource | None] = HubSource("Rowan/hellaswag", None, "validation")
    licence: ClassVar[str] = "MIT"
    source: ClassVar[str] = "https://github.com/rowanz/hellaswag"
    group_by: ClassVar[str | None] = None

    def normalise(self, raw: Row) -> dict[str, Any]:
        """Fields id, activity, context, endings (4), answer (an index). Texts as the data set has them."""
        endings = texts_of(raw, "endings")
        if len(endings) != N_ENDINGS:
            raise FieldError(f"field 'endings' holds {len(endings)} endings, not {N_ENDINGS}")
        if raw.get("label") == "":
            raise FieldError("field 'label' is empty, as in the test set, whose answers are not published")
        return {
            "id": id_of(raw, "id", "ind"),
            "activity": text_of(raw, "activity", "activity_label"),
            "context": _context_of(raw),
            "endings": endings,
            "answer": index_of(raw, N_ENDINGS, "answer", "label"),
        }

    def questions(self, rows: Sequence[Row], style: str, *, seed: int, shots: Sequence[Row] = ()) -> list[Question]:
        """The rows' questions in this style; nothing depends on the seed."""
        check_request(self, rows, style, seed, shots)
        return [self._question(sample, row, style) for sample, row in numbered(rows)]

    def _question(self, sample: int, row: Row, style: str) -> Question:
        begun = without_wikihow_marks(f"{row['activity']}: {row['context']}")
        endings, target = tuple(map(without_wikihow_marks, row["endings"])), row["answer"]
        chat = style == "letters"
        if chat:
            prompt = plain_options(f"{begun}\nWhich of these comes next?", endings)
            choices = letters(len(endings))
        else:
            prompt, choices = begun, tuple(f" {ending}" for ending in endings)
        answer = choices[target].strip()
        return Question(sample, row.get("id", ""), prompt, chat, choices, target, answer, options=endings)


def without_wikihow_marks(text: str) -> str:
    """A text without the bracketed marks that WikiHow's articles left in it, as the usual harness cleans it.

    >>> without_wikihow_marks("How to swim [header] Find water [title] Get in. [step] Move.")
    'How to swim Find water. Get in. Move.'
    """
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _context_of(raw: Row) -> str:
    """The context as one text: ours, else the hub's two parts, the second with a capital letter."""
    if "context" in raw:
        return text_of(raw, "context")
    return f"{text_of(raw, 'ctx_a')} {text_of(raw, 'ctx_b', blank=True).capitalize()}".strip()
