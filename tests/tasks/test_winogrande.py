"""WinoGrande: each option with the rest of the sentence, or lettered in chat. Invented sentences."""

import pytest

from lacscope.tasks._fields import FieldError
from lacscope.tasks._winogrande import WinoGrande

pytestmark = pytest.mark.once

TASK = WinoGrande()
SENTENCE = "The newt does not fit under the stone because the _ is too big."
ROW = {"id": "q1", "sentence": SENTENCE, "options": ["stone", "newt"], "answer": 1}
HUB_ROW = {"qID": "q1", "sentence": SENTENCE, "option1": "stone", "option2": "newt", "answer": "2"}


def test_the_rest_of_the_sentence_is_scored_with_each_option() -> None:
    (question,) = TASK.questions([{"sample": 3, **ROW}], "plain", seed=0)
    assert (question.sample, question.chat) == (3, False)
    assert question.prompt == "The newt does not fit under the stone because the"
    assert question.choices == (" stone is too big.", " newt is too big.")
    assert question.prompt + question.choices[1] == SENTENCE.replace("_", "newt")
    assert (question.target, question.answer, question.options) == (1, "newt", ("stone", "newt"))
    assert TASK.right(TASK.parse(" newt is too long.\nThe stone", question), question)
    assert not TASK.right(TASK.parse(" stone is too small.", question), question)
    assert TASK.parse(" reed is", question) is None


@pytest.mark.parametrize(
    ("sentence", "prompt", "choice"),
    [
        ("_ swims.", "\n", "newt swims."),
        ("They said (_) swims.", "They said (", "newt) swims."),
        ("It was the _", "It was the", " newt"),
    ],
)
def test_wherever_the_blank_stands(sentence: str, prompt: str, choice: str) -> None:
    (question,) = TASK.questions([TASK.normalise({**HUB_ROW, "sentence": sentence})], "plain", seed=0)
    assert (question.prompt, question.choices[1]) == (prompt, choice)


def test_letters_in_chat() -> None:
    (question,) = TASK.questions([ROW], "letters", seed=0)
    assert question.prompt == (
        f"{SENTENCE}\nWhich of these fills the blank?\nA. stone\nB. newt\nAnswer with the letter of the right option."
    )
    assert (question.chat, question.choices, question.answer) == (True, ("A", "B"), "B")
    assert TASK.right(TASK.parse("The answer is B.", question), question)


@pytest.mark.parametrize(("answer", "index"), [("1", 0), ("2", 1), (2, 1)])
def test_the_hub_counts_from_one_and_we_from_zero(answer: object, index: int) -> None:
    row = TASK.normalise({**HUB_ROW, "answer": answer})
    assert row == {**ROW, "answer": index}
    assert TASK.normalise(row) == row


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answer": ""}, r"^field 'answer' is empty, as in the test set, whose answers are not published$"),
        ({"answer": "0"}, r"^field 'answer' is neither 1 nor 2, for option1 or option2$"),
        ({"sentence": "A newt."}, r"^field 'sentence' holds 0 blanks \('_'\), not one$"),
        ({"sentence": "A _ and a _."}, r"^field 'sentence' holds 2 blanks"),
        ({"option2": None}, r"^no field 'option2'$"),
        ({"options": ["newt"]}, r"^field 'options' holds 1 options, not 2$"),
        ({"options": ["newt", "reed"], "answer": 2}, r"^field 'answer' does not point to one of its 2 options"),
    ],
)
def test_bad_rows(changed: dict[str, object], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        TASK.normalise({**HUB_ROW, **changed})
