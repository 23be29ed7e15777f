"""Fields as files really hold them; errors name the field and never its text."""

import json

import numpy as np
import pytest

from lacscope.tasks._fields import FieldError, flag_of, id_of, index_of, parse_literal, text_of, texts_of

pytestmark = pytest.mark.once

TEXTS = ["plain", "it's", 'a "quoted" one', "with, comma"]
ARRAY = np.array(TEXTS, dtype=object)


@pytest.mark.parametrize(
    "written",
    [TEXTS, tuple(TEXTS), ARRAY, json.dumps(TEXTS), repr(TEXTS), str(ARRAY)],
    ids=["list", "tuple", "array", "JSON", "Python", "numpy"],
)
def test_lists_of_texts(written: object) -> None:
    assert texts_of({"choices": written}, "choices") == TEXTS


def test_numpy_prints_no_commas_and_breaks_lines() -> None:
    long = [f"option number {place} of a rather long list" for place in range(4)]
    written = str(np.array(long, dtype=object))
    assert "\n" in written
    assert "," not in written
    assert texts_of({"choices": written}, "choices") == long


def test_numbers_become_texts() -> None:
    assert texts_of({"choices": "[1, 2.5]"}, "choices") == ["1", "2.5"]


def test_a_dict_of_arrays() -> None:
    written = str({"text": np.array(["a", "b"], dtype=object), "label": np.array(["A", "B"], dtype=object)})
    assert "array(" in written
    assert parse_literal(written, "choices") == {"text": ["a", "b"], "label": ["A", "B"]}


@pytest.mark.parametrize("written", ["secret", "['secret'", "__import__('os')", "['secret', x(]", "{'secret': open}"])
def test_what_is_no_literal_is_not_evaluated_and_not_quoted(written: str) -> None:
    with pytest.raises(FieldError, match="field 'choices'") as caught:
        texts_of({"choices": written}, "choices")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_dict_is_no_list() -> None:
    with pytest.raises(FieldError, match=r"^field 'choices' is not a list of texts$"):
        texts_of({"choices": {"text": ["a"]}}, "choices")


@pytest.mark.parametrize("value", [True, "True", "true", " YES ", 1, "1", np.True_])
def test_true(value: object) -> None:
    assert flag_of({"answer": value}, "answer") is True


@pytest.mark.parametrize("value", [False, "False", "no", 0, "0"])
def test_false(value: object) -> None:
    assert flag_of({"answer": value}, "answer") is False


def test_not_a_boolean() -> None:
    with pytest.raises(FieldError, match=r"^field 'answer' is not a boolean \(true/false, yes/no or 1/0\)$"):
        flag_of({"answer": "secret"}, "answer")


@pytest.mark.parametrize(("value", "index"), [(2, 2), ("2", 2), ("C", 2), (np.int64(3), 3)])
def test_indices(value: object, index: int) -> None:
    assert index_of({"answer": value}, 4, "answer") == index


@pytest.mark.parametrize("value", [4, -1, "E", "secret", "", 1.5, True])
def test_not_an_index(value: object) -> None:
    with pytest.raises(FieldError, match=r"^field 'answer' does not point to one of its 4 options"):
        index_of({"answer": value}, 4, "answer")


def test_missing_fields_are_named() -> None:
    with pytest.raises(FieldError, match=r"^no field 'question' \(or 'Question'\)$"):
        text_of({"question": None}, "question", "Question")
    assert id_of({}, "id") == ""
    assert id_of({"idx": 5}, "id", "idx") == "5"
