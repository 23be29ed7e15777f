"""WinoGrande: which of two names or nouns fills the blank of a sentence (Sakaguchi et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lacscope.tasks._base import HubSource, OptionAnswers, Question, Row, check_request, numbered
from lacscope.tasks._fields import FieldError, code_of, id_of, index_of, text_of, texts_of
from lacscope.tasks._letters import letters
from lacscope.tasks._templates import plain_options

BLANK = "_"


@dataclass(frozen=True)
class WinoGrande(OptionAnswers):
    """WinoGrande's validation set: 1,267 sentences with a blank and two options, half the answers each.

    Style "plain": the sentence up to its blank is raw text; the choices are each option *with the rest of the
    sentence*, since what follows the blank decides. The usual harness leaves the option itself out of the score and
    compares the rest of the sentence after either (the partial scoring of Trinh and Le 2018). A question here has
    one prompt, so the log-probability of the option counts as well, and a likelier or shorter one has an
    advantage: scores are not the harness's, but conditions are compared alike. A sentence that begins with its
    blank is read after a line break, since a prompt cannot be empty.
    Style "letters": the sentence with its blank and the lettered options in chat, the letters as choices.
    The test set's answers are not published, so its rows are refused.
    """

    name: ClassVar[str] = "winogrande"
    private: ClassVar[bool] = False
    chance: ClassVar[float | None] = 0.5
    styles: ClassVar[tuple[str, ...]] = ("plain", "letters")
    scorings: ClassVar[tuple[str, ...]] = ("choice", "generated")
    hub: ClassVar[HubSource | None] = HubSource("allenai/winogrande", "winogrande_xl", "validation")
    licence: ClassVar[str] = "CC BY"
    source: ClassVar[str] = "https://github.com/allenai/winogrande"
    group_by: ClassVar[str | None] = None

    def normalise(self, raw: Row) -> dict[str, Any]:
        """Fields id, sentence, options (2), answer (an index)."""
        sentence = text_of(raw, "sentence").strip()
        if sentence.count(BLANK) != 1:
            raise FieldError(f"field 'sentence' holds {sentence.count(BLANK)} blanks ({BLANK!r}), not one")
        if "options" in raw:
            options = texts_of(raw, "options")
            if len(options) != 2:
                raise FieldError(f"field 'options' holds {len(options)} options, not 2")
            answer = index_of(raw, 2, "answer")
        else:
            options = [text_of(raw, "option1"), text_of(raw, "option2")]
            answer = _numbered_answer(raw)
        return {"id": id_of(raw, "id", "qID"), "sentence": sentence, "options": options, "answer": answer}

    def questions(self, rows: Sequence[Row], style: str, *, seed: int, shots: Sequence[Row] = ()) -> list[Question]:
        """The rows' questions in this style; nothing depends on the seed."""
        check_request(self, rows, style, seed, shots)
        return [self._question(sample, row, style) for sample, row in numbered(rows)]

    def _question(self, sample: int, row: Row, style: str) -> Question:
        options, target = tuple(row["options"]), row["answer"]
        chat = style == "letters"
        if chat:
            prompt = plain_options(f"{row['sentence']}\nWhich of these fills the blank?", options)
            choices = letters(len(options))
            answer = choices[target]
        else:
            before, _, rest = row["sentence"].partition(BLANK)
            prompt = before.rstrip()
            # The space belongs to the choice: tokenizers write it with the word that follows.
            choices = tuple(f"{before[len(prompt) :]}{option}{rest}" for option in options)
            prompt, answer = prompt or "\n", options[target]
        return Question(sample, row.get("id", ""), prompt, chat, choices, target, answer, options=options)


def _numbered_answer(raw: Row) -> int:
    """The hub counts its options from 1."""
    word = code_of(raw, "answer")
    if not word:
        raise FieldError("field 'answer' is empty, as in the test set, whose answers are not published")
    if word not in ("1", "2"):
        raise FieldError("field 'answer' is neither 1 nor 2, for option1 or option2")
    return int(word) - 1
