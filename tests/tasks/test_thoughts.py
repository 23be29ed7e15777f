"""What a model thinks is no part of its answer, and is told apart."""

import pytest

from lacscope.tasks._answers import first_word, parse_boolean, parse_letter, parse_number, parse_option
from lacscope.tasks._thoughts import ends_in_thought, thought_in, without_thoughts

pytestmark = pytest.mark.once

CASES = [
    ("B", "B", "none"),
    ("<think>\nA or C?\n</think>\n\nB", "B", "closed"),
    ("<think>\n\n</think>\n\nB", "B", "closed"),
    ("A looks right.\n</think>\nB", "B", "closed"),  # the prompt opened the thought
    ("<think>A seems", "", "open"),
    ("<think>a</think>B<think>or A", "B", "open"),
    ("<think>a <think>b</think> c</think>B", "B", "closed"),
    ("<think>a</think>B<think>c</think>", "B", "closed"),
    ("[THINK]A[/THINK]B", "B", "closed"),
    ("<Thinking>A</Thinking>B", "B", "closed"),
]


@pytest.mark.parametrize(("text", "answer", "kind"), CASES)
def test_a_thought_is_left_out_and_told_apart(text: str, answer: str, kind: str) -> None:
    assert (without_thoughts(text), thought_in(text)) == (answer, kind)


def test_every_parser_reads_what_follows_the_thought() -> None:
    assert parse_boolean("<think>It is false.</think>True") is True
    assert parse_letter("<think>The answer is A.</think>B", 4) == 1
    assert parse_letter("<think>The answer is A.", 4) is None
    assert parse_number("<think>#### 7</think>So 18.") == "18"
    assert parse_option("<think>the stone</think>the heron", ["the stone", "the heron"]) == 1
    assert first_word("<think>hm</think> signs.") == "signs"


def test_a_prompt_that_opens_a_thought() -> None:
    assert ends_in_thought("assistant\n<think>\n")
    assert not ends_in_thought("assistant\n<think>\n\n</think>\n\n")
