"""MMLU: four-option questions in 57 subjects (Hendrycks et al. 2021)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lacscope.tasks._base import HubSource, LetterAnswers, Question, Row, check_request, numbered
from lacscope.tasks._fields import FieldError, id_of, index_of, text_of, texts_of
from lacscope.tasks._letters import letters
from lacscope.tasks._templates import paper_options, plain_options


@dataclass(frozen=True)
class Mmlu(LetterAnswers):
    """MMLU's test set: 14,042 questions; ``group`` is the subject.

    With ``shots`` (the dev rows, five a subject), those of the question's own subject stand before it in the
    same message, each in the style's own template and followed by its letter. The paper has no shots: style
    "paper" with shots is ours.
    """

    name: ClassVar[str] = "mmlu"
    private: ClassVar[bool] = False
    chance: ClassVar[float | None] = 0.25
    styles: ClassVar[tuple[str, ...]] = ("paper", "plain")
    scorings: ClassVar[tuple[str, ...]] = ("choice", "generated")
    hub: ClassVar[HubSource | None] = HubSource("cais/mmlu", "all", "test", shots_split="dev")
    licence: ClassVar[str] = "MIT"
    source: ClassVar[str] = "https://github.com/hendrycks/test"
    group_by: ClassVar[str | None] = "subject"

    def normalise(self, raw: Row) -> dict[str, Any]:
        """Fields id, subject, question, choices (four), answer (an index)."""
        choices = texts_of(raw, "choices")
        if len(choices) != 4:
            raise FieldError(f"field 'choices' holds {len(choices)} options, not 4")
        return {
            "id": id_of(raw, "id"),
            "subject": text_of(raw, "subject"),
            "question": text_of(raw, "question"),
            "choices": choices,
            "answer": index_of(raw, 4, "answer"),
        }

    def questions(self, rows: Sequence[Row], style: str, *, seed: int, shots: Sequence[Row] = ()) -> list[Question]:
        """The rows' questions in this style; nothing depends on the seed."""
        check_request(self, rows, style, seed, shots)
        render = paper_options if style == "paper" else plain_options
        before = _solved_by_subject(shots, render)
        return [self._question(sample, row, render, before) for sample, row in numbered(rows)]

    def _question(
        self, sample: int, row: Row, render: Callable[[str, Sequence[str]], str], before: dict[str, str]
    ) -> Question:
        subject, options = row["subject"], tuple(row["choices"])
        if before and subject not in before:
            raise ValueError(f"sample {sample}: there is no few-shot example for the subject {subject!r}.")
        prompt = before.get(subject, "") + render(row["question"], options)
        choices, target = letters(len(options)), row["answer"]
        return Question(
            sample, row.get("id", ""), prompt, True, choices, target, choices[target], group=subject, options=options
        )


def _solved_by_subject(shots: Sequence[Row], render: Callable[[str, Sequence[str]], str]) -> dict[str, str]:
    """For each subject, its examples one after another, each followed by its letter."""
    solved: dict[str, str] = {}
    for row in shots:
        options = row["choices"]
        shot = f"{render(row['question'], options)}\n{letters(len(options))[row['answer']]}\n\n"
        solved[row["subject"]] = solved.get(row["subject"], "") + shot
    return solved
