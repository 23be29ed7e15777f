"""GSM8K: the solution teacher-forced, the number generated. Invented problems."""

import pytest

from lacscope.model_measures import CSORDAS_PROMPT_FORMAT
from lacscope.tasks._base import prompt_format
from lacscope.tasks._fields import FieldError
from lacscope.tasks._gsm8k import CSORDAS, INSTRUCTION, Gsm8k

pytestmark = pytest.mark.once

SOLUTION = (
    "Two ponds hold 2 * 600 = <<2*600=1200>>1200 newts.\nThey weigh 1200 * 5 = $<<1200*5=6000>>6,000 g.\n#### 6,000"
)
RAW = {"question": "What do the newts weigh?", "answer": SOLUTION}


@pytest.mark.parametrize(
    "raw", [RAW, {"question": RAW["question"], "solution": SOLUTION, "answer": "6000"}], ids=["hub", "local"]
)
def test_the_question(raw: dict[str, str]) -> None:
    task = Gsm8k()
    (question,) = task.questions([{"sample": 1, **task.normalise(raw)}], "plain", seed=0)
    assert question.prompt == f"What do the newts weigh?\n{INSTRUCTION}"
    gold = "Two ponds hold 2 * 600 = 1200 newts.\nThey weigh 1200 * 5 = $6,000 g.\n#### 6000"
    assert question.choices == (gold,)
    assert (question.chat, question.target, question.answer) == (True, 0, "6000")


def test_the_question_as_csordas_et_al_put_it() -> None:
    """Their one string, cut before the solution: the marks kept, the number as published."""
    task = Gsm8k()
    (question,) = task.questions([task.normalise(RAW)], CSORDAS, seed=0)
    steps, number = SOLUTION.split("#### ")
    assert question.prompt + question.choices[0] == (
        "Given the following problem, reason and give a final answer to the problem.\n"
        "Problem: What do the newts weigh?\n"
        'Your response should end with "The final answer is [answer]" where [answer] is the response to the problem.'
        "\n\n"
        f"{steps}The final answer is {number}"
    )
    assert (question.chat, question.target, question.answer) == (False, 0, "6000")
    assert prompt_format(question.chat, CSORDAS) == CSORDAS_PROMPT_FORMAT


def test_normalised_rows_stay_as_they_are() -> None:
    row = Gsm8k().normalise(RAW)
    assert Gsm8k().normalise(row) == row


@pytest.mark.parametrize(
    ("text", "right"),
    [("#### 6,000", True), ("It is $6000.00.", True), ("6001", False), ("#### 6000\n\n7 more", True), ("many", False)],
)
def test_generated_answers(text: str, right: bool) -> None:
    task = Gsm8k()
    (question,) = task.questions([task.normalise(RAW)], "plain", seed=0)
    assert task.right(task.parse(text, question), question) is right


@pytest.mark.parametrize("answer", ["six thousand", "6000", "#### 6000", "Steps.\n#### many"])
def test_not_a_solution(answer: str) -> None:
    with pytest.raises(FieldError, match=r"^field 'answer' is not a solution that ends in '#### ' and a number$"):
        Gsm8k().normalise({**RAW, "answer": answer})
