"""GPQA: shuffled by (seed, sample) and undone by ``order``; every text here is invented."""

from collections import Counter

import pytest

from lacscope.tasks._fields import FieldError
from lacscope.tasks._gpqa import Gpqa

pytestmark = pytest.mark.once

RAW = {
    "Record ID": "rec1",
    "Question": "Which of these is a newt?\n\n",
    "Correct Answer": "the smooth newt\n",
    "Incorrect Answer 1": "a stone",
    "Incorrect Answer 2": "a reed",
    "Incorrect Answer 3": "the heron",
    "Explanation": "It has a tail.",
}
PUBLISHED = ("the smooth newt\n", "a stone", "a reed", "the heron")


def rows(n: int) -> list[dict[str, object]]:
    return [{"sample": sample, **Gpqa().normalise(RAW)} for sample in range(n)]


def test_rows() -> None:
    expected = {
        "id": "rec1",
        "question": RAW["Question"],
        "correct": "the smooth newt\n",
        "incorrect": ["a stone", "a reed", "the heron"],
    }
    assert Gpqa().normalise(RAW) == expected
    assert Gpqa().normalise(expected) == expected


def test_the_right_option_is_where_order_says() -> None:
    for question in Gpqa().questions(rows(40), "paper", seed=3):
        assert sorted(question.order) == [0, 1, 2, 3]
        assert question.options == tuple(PUBLISHED[option] for option in question.order)
        assert question.order[question.target] == 0
        assert question.answer == "ABCD"[question.target]
        assert f"{question.answer}. the smooth newt\n" in question.prompt


def test_the_order_depends_on_seed_and_sample_alone() -> None:
    task, all_rows = Gpqa(), rows(400)
    orders = {question.sample: question.order for question in task.questions(all_rows, "paper", seed=3)}
    again = task.questions(all_rows[30:10:-2], "plain", seed=3)
    assert all(question.order == orders[question.sample] for question in again)
    other = task.questions(all_rows, "paper", seed=4)
    assert sum(question.order == orders[question.sample] for question in other) < 50
    # Every place about as often: 100 of 400 expected, 9 is one standard deviation.
    places = Counter(order.index(0) for order in orders.values())
    assert all(60 < places[place] < 140 for place in range(4))


def test_the_published_order_has_d_right() -> None:
    (question,) = Gpqa(shuffle=False).questions(rows(1), "paper", seed=3)
    assert (question.order, question.target, question.answer) == ((1, 2, 3, 0), 3, "D")
    assert question.prompt == (
        "\n    Question:\n    Which of these is a newt?\n\n\n\n    Options:\n"
        "    A. a stone\nB. a reed\nC. the heron\nD. the smooth newt\n\n"
        "\n    Output format:\n    [Option]\n\n    "
    )


def test_the_plain_prompt_drops_stray_blank_lines() -> None:
    (question,) = Gpqa(shuffle=False).questions(rows(1), "plain", seed=0)
    assert question.prompt == (
        "Which of these is a newt?\nA. a stone\nB. a reed\nC. the heron\nD. the smooth newt\n"
        "Answer with the letter of the right option."
    )
    assert Gpqa().right(Gpqa().parse("The smooth newt", question), question)


def test_it_is_private_and_hides_its_text() -> None:
    assert Gpqa().private
    (question,) = Gpqa().questions(rows(1), "paper", seed=0)
    assert not any(word in repr(question) for word in ("newt", "stone", "heron"))


def test_missing_and_short_fields() -> None:
    with pytest.raises(FieldError, match=r"^no field 'Incorrect Answer 2'$"):
        Gpqa().normalise({**RAW, "Incorrect Answer 2": None})
    with pytest.raises(FieldError, match=r"^field 'incorrect' holds 1 options, not 3$"):
        Gpqa().normalise({**RAW, "incorrect": ["a"]})
