"""MMLU's prompts, byte by byte, with and without shots."""

import pytest

from lacscope.tasks._fields import FieldError
from lacscope.tasks._mmlu import Mmlu

pytestmark = pytest.mark.once

ROW = {
    "sample": 5, "id": "pond_life/5", "subject": "pond_life", "question": "Which is a newt?",
    "choices": ["a stone", "the smooth newt", "a {reed}", "the heron"], "answer": 1,
}  # fmt: skip
SHOTS = [
    {**ROW, "question": "Which flies?", "answer": 3},
    {**ROW, "subject": "astronomy", "question": "Which shines?", "answer": 0},
    {**ROW, "question": "Which is a plant?", "answer": 2},
]
OPTIONS = "A. a stone\nB. the smooth newt\nC. a {reed}\nD. the heron"


def paper(question: str) -> str:
    return f"\n    Question:\n    {question}\n\n    Options:\n    {OPTIONS}\n\n    Output format:\n    [Option]\n\n    "


def test_the_papers_prompt() -> None:
    (question,) = Mmlu().questions([ROW], "paper", seed=0)
    assert question.prompt == (
        "\n    Question:\n    Which is a newt?\n\n    Options:\n"
        "    A. a stone\nB. the smooth newt\nC. a {reed}\nD. the heron\n"
        "\n    Output format:\n    [Option]\n\n    "
    )
    assert (question.sample, question.id, question.group, question.chat) == (5, "pond_life/5", "pond_life", True)
    assert (question.choices, question.target, question.answer) == (("A", "B", "C", "D"), 1, "B")
    assert question.options == tuple(ROW["choices"])


def test_the_plain_prompt() -> None:
    (question,) = Mmlu().questions([ROW], "plain", seed=0)
    assert question.prompt == f"Which is a newt?\n{OPTIONS}\nAnswer with the letter of the right option."


def test_shots_are_the_subjects_own_in_the_styles_template() -> None:
    (question,) = Mmlu().questions([ROW], "paper", seed=0, shots=SHOTS)
    assert question.prompt == (
        paper("Which flies?") + "\nD\n\n" + paper("Which is a plant?") + "\nC\n\n" + paper("Which is a newt?")
    )
    (question,) = Mmlu().questions([ROW], "plain", seed=0, shots=SHOTS)
    ask = f"\n{OPTIONS}\nAnswer with the letter of the right option."
    assert question.prompt == f"Which flies?{ask}\nD\n\nWhich is a plant?{ask}\nC\n\nWhich is a newt?{ask}"


def test_a_subject_without_shots() -> None:
    with pytest.raises(ValueError, match=r"^sample 5: there is no few-shot example for the subject 'pond_life'\.$"):
        Mmlu().questions([ROW], "plain", seed=0, shots=SHOTS[1:2])


def test_scoring_by_letter_and_by_text() -> None:
    task = Mmlu()
    (question,) = task.questions([ROW], "paper", seed=0)
    assert task.right(task.parse("The answer is (B).", question), question)
    assert task.right(task.parse("The smooth newt.", question), question)
    assert not task.right(task.parse("C", question), question)
    assert not task.right(task.parse("A or B", question), question)


@pytest.mark.parametrize("answer", [1, "1", "B"])
def test_rows(answer: object) -> None:
    row = Mmlu().normalise({**ROW, "answer": answer})
    assert row == {name: value for name, value in ROW.items() if name != "sample"}


def test_four_options() -> None:
    with pytest.raises(FieldError, match=r"^field 'choices' holds 3 options, not 4$"):
        Mmlu().normalise({**ROW, "choices": ["a", "b", "c"]})
