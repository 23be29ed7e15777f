"""Questions check themselves, hide their text, and hash by content."""

from dataclasses import replace

import pytest

from lacscope.tasks._base import HubSource, Question, numbered

pytestmark = pytest.mark.once

QUESTION = Question(3, "q-3", "Is tin a metal?", True, ("yes", "no"), 0, "yes")


@pytest.mark.parametrize(("choices", "target"), [(("a", "b"), 2), (("a", "b"), -1), ((), 0)])
def test_the_target_is_one_of_the_choices(choices: tuple[str, ...], target: int) -> None:
    with pytest.raises(
        ValueError, match=rf"sample 3: target {target} is not the index of one of {len(choices)} choices"
    ):
        replace(QUESTION, choices=choices, target=target)


def test_no_choices_no_target() -> None:
    assert replace(QUESTION, choices=(), target=-1).target == -1


def test_repr_hides_the_text() -> None:
    shown = repr(replace(QUESTION, options=("secret option",)))
    assert "q-3" in shown
    assert not any(word in shown for word in ("tin", "yes", "secret"))


def test_sample_numbers_stay_with_the_rows() -> None:
    assert [sample for sample, _ in numbered([{"sample": 7}, {"sample": 2}])] == [7, 2]
    assert [sample for sample, _ in numbered([{}, {}])] == [0, 1]


def test_the_hubs_page() -> None:
    assert HubSource("a/b", None, "test").url == "https://huggingface.co/datasets/a/b"
