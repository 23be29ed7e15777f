"""The packaged questions: complete, balanced, and readable."""

from collections import Counter

import pytest

from lacscope.tasks._pocket import load_pocket

pytestmark = pytest.mark.once


def test_counts_and_unique_ids():
    items = load_pocket()
    assert len(items) == 96
    assert len({item.id for item in items}) == 96
    assert len({item.question for item in items}) == 96


def test_yes_no_is_balanced_in_answer_and_reasoning():
    items = load_pocket("yes_no")
    assert Counter((item.answer, item.reasoning) for item in items) == {
        (True, "stated"): 12,
        (True, "inferred"): 12,
        (False, "stated"): 12,
        (False, "inferred"): 12,
    }
    assert all(item.passage and not item.choices for item in items)


def test_multiple_choice_is_balanced_in_place_and_length():
    items = load_pocket("multiple_choice")
    assert Counter(item.answer for item in items) == {0: 12, 1: 12, 2: 12, 3: 12}
    assert all(len(set(item.choices)) == 4 for item in items)
    longest = sum(len(item.choices[item.answer]) == max(map(len, item.choices)) for item in items)
    shortest = sum(len(item.choices[item.answer]) == min(map(len, item.choices)) for item in items)
    # A guesser by length must not beat a quarter by much: 14 of 48 at most.
    assert longest <= 14
    assert shortest <= 14


def test_prompts():
    yes_no = load_pocket("yes_no")[0]
    assert yes_no.prompt().startswith(yes_no.passage)
    assert yes_no.prompt().endswith("Answer with Yes or No.")
    assert yes_no.answer_text == ("Yes" if yes_no.answer else "No")
    choice = next(item for item in load_pocket("multiple_choice") if item.answer == 2)
    assert f"C. {choice.choices[2]}\n" in choice.prompt()
    assert choice.answer_text == "C"
    assert choice.chat() == [{"role": "user", "content": choice.prompt()}]


def test_unknown_kind(unchecked):
    with pytest.raises(ValueError, match=r"unknown kind 'maths'; choose one of 'yes_no', 'multiple_choice'"):
        load_pocket("maths")  # type: ignore[arg-type]
