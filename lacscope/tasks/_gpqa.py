"""GPQA Diamond: graduate-level science questions (Rein et al. 2023). Private: its text is never written out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lacscope.tasks._base import HubSource, LetterAnswers, Question, Row, check_request, numbered
from lacscope.tasks._fields import FieldError, id_of, text_of, texts_of
from lacscope.tasks._letters import letters
from lacscope.tasks._templates import paper_options, plain_options

PUBLISHED_ORDER = (1, 2, 3, 0)


@dataclass(frozen=True)
class Gpqa(LetterAnswers):
    """GPQA Diamond: 198 questions of four options; the data set's option 0 is the right one.

    Its authors ask that no example stand in public in plain text: save prompts as hashes only.
    The options are shuffled by (seed, sample), and ``order`` says how. ``shuffle=False`` gives the order of the
    paper's published code instead, where the right option is always D.
    """

    name: ClassVar[str] = "gpqa"
    private: ClassVar[bool] = True
    chance: ClassVar[float | None] = 0.25
    styles: ClassVar[tuple[str, ...]] = ("paper", "plain")
    scorings: ClassVar[tuple[str, ...]] = ("choice", "generated")
    hub: ClassVar[HubSource | None] = HubSource("Idavidrein/gpqa", "gpqa_diamond", "train")
    licence: ClassVar[str] = "CC BY 4.0 (its authors ask not to publish examples in plain text)"
    source: ClassVar[str] = "https://github.com/idavidrein/gpqa"
    group_by: ClassVar[str | None] = None
    shuffle: bool = True

    def normalise(self, raw: Row) -> dict[str, Any]:
        """Fields id, question, correct, incorrect (three)."""
        if "incorrect" in raw:
            incorrect = texts_of(raw, "incorrect")
        else:
            incorrect = [text_of(raw, f"Incorrect Answer {place}") for place in (1, 2, 3)]
        if len(incorrect) != 3:
            raise FieldError(f"field 'incorrect' holds {len(incorrect)} options, not 3")
        return {
            "id": id_of(raw, "id", "Record ID"),
            "question": text_of(raw, "Question", "question"),
            "correct": text_of(raw, "Correct Answer", "correct"),
            "incorrect": incorrect,
        }

    def questions(self, rows: Sequence[Row], style: str, *, seed: int, shots: Sequence[Row] = ()) -> list[Question]:
        """The rows' questions in this style, each with its own order of options, drawn from (seed, sample)."""
        check_request(self, rows, style, seed, shots)
        return [self._question(sample, row, style, seed) for sample, row in numbered(rows)]

    def _question(self, sample: int, row: Row, style: str, seed: int) -> Question:
        order = self._order(seed, sample)
        published = (row["correct"], *row["incorrect"])
        shown = tuple(published[option] for option in order)
        if style == "paper":
            prompt = paper_options(row["question"], shown)
        else:
            # Many of its fields end in stray blank lines; the paper's prompts keep them.
            prompt = plain_options(row["question"].strip(), [option.strip() for option in shown])
        choices, target = letters(len(shown)), order.index(0)
        return Question(
            sample, row.get("id", ""), prompt, True, choices, target, choices[target], order=order, options=shown
        )

    def _order(self, seed: int, sample: int) -> tuple[int, ...]:
        if not self.shuffle:
            return PUBLISHED_ORDER
        return tuple(int(option) for option in np.random.default_rng((seed, sample)).permutation(4))
