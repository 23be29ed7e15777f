"""ARC: science questions from school exams, Easy and Challenge (Clark et al. 2018)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lacscope.tasks._base import HubSource, OptionAnswers, Question, Row, check_request, numbered
from lacscope.tasks._fields import FieldError, code_of, id_of, index_of, parse_literal, text_of, texts_of
from lacscope.tasks._letters import letters
from lacscope.tasks._templates import plain_options


@dataclass(frozen=True)
class Arc(OptionAnswers):
    """One of ARC's two sets; ``name`` and ``hub`` say which. Three to five options a question, nearly always four.

    Style "plain": raw text ``Question: ...\\nAnswer:``, each option's text a choice, as the usual harness does.
    Style "letters": lettered options in chat, the letters as choices.
    """

    name: str
    hub: HubSource | None
    private: bool = False
    chance: float | None = 0.25
    styles: tuple[str, ...] = ("plain", "letters")
    scorings: tuple[str, ...] = ("choice", "generated")
    licence: str = "CC BY-SA 4.0"
    source: str = "https://allenai.org/data/arc"
    group_by: str | None = None

    def normalise(self, raw: Row) -> dict[str, Any]:
        """Fields id, question, choices, answer (an index)."""
        texts, labels = _options_of(raw)
        if "answerKey" in raw:
            key = code_of(raw, "answerKey")
            if key not in labels:
                raise FieldError("field 'answerKey' is not one of the options' labels")
            answer = labels.index(key)
        else:
            answer = index_of(raw, len(texts), "answer", "answerKey")
        return {"id": id_of(raw, "id"), "question": text_of(raw, "question"), "choices": texts, "answer": answer}

    def questions(self, rows: Sequence[Row], style: str, *, seed: int, shots: Sequence[Row] = ()) -> list[Question]:
        """The rows' questions in this style; nothing depends on the seed."""
        check_request(self, rows, style, seed, shots)
        return [self._question(sample, row, style) for sample, row in numbered(rows)]

    def _question(self, sample: int, row: Row, style: str) -> Question:
        options, target = tuple(row["choices"]), row["answer"]
        chat = style == "letters"
        if chat:
            prompt, choices = plain_options(row["question"], options), letters(len(options))
        else:
            prompt, choices = f"Question: {row['question']}\nAnswer:", tuple(f" {option}" for option in options)
        return Question(
            sample, row.get("id", ""), prompt, chat, choices, target, choices[target].strip(), options=options
        )


def _options_of(raw: Row) -> tuple[list[str], list[str]]:
    """The options' texts and labels, from the hub's ``{"text": ..., "label": ...}`` or from two plain lists."""
    choices = raw.get("choices")
    if isinstance(choices, str):
        choices = parse_literal(choices, "choices")
    if isinstance(choices, Mapping):
        texts, labels = texts_of(choices, "text"), texts_of(choices, "label")
    else:
        texts = texts_of({"choices": choices}, "choices")
        labels = texts_of(raw, "labels") if "labels" in raw else list(letters(max(1, min(len(texts), 5))))
    if not 2 <= len(texts) <= 5 or len(texts) != len(labels):
        raise FieldError(f"field 'choices' holds {len(texts)} options and {len(labels)} labels, not 2 to 5 of each")
    return texts, labels
