"""Token classes on hand-made texts."""

import numpy as np
import pytest
import xarray as xr

from lacscope.trace_analyses._tokens import CLASSES, function_words, token_classes
from lacscope.traces._joining import stack_rules
from lacscope.traces._schema import NORMS, SampleTrace, TraceError, build

pytestmark = pytest.mark.once

SPECIAL = ("<|im_start|>", "<|im_end|>", "<s>", "<|startoftext|>")


def made_of(*samples: list[str]) -> xr.Dataset:
    """A trace whose tokens have these texts."""
    vocabulary = list(dict.fromkeys([*SPECIAL, *(text for sample in samples for text in sample)]))
    rows = [
        SampleTrace(
            token_id=np.array([vocabulary.index(text) for text in sample]),
            next_token_id=np.full(len(sample), -1),
            decode=np.zeros(len(sample), dtype=bool),
            layerwise={name: np.ones((2, len(sample)), dtype=np.float32) for name in NORMS},
        )
        for sample in samples
    ]
    attrs = {"model": "hand-made", "rule": "null", "effect": "observe"}
    special = [vocabulary.index(text) for text in SPECIAL]
    return build(rows, attrs, token_text=dict(enumerate(vocabulary)), special_ids=special)


def classes(*texts: str) -> list[str]:
    return token_classes(made_of(list(texts))).values[0].tolist()


def test_a_chat() -> None:
    texts = ["<|im_start|>", "user", "\n", "Is", " the", " rain", "bow", " 12", "km", " away", "?", "<|im_end|>", "\n"]
    expected = [
        "position 0",
        "chat-template",
        "chat-template",
        "function word",
        "function word",
        "other",
        "word continuation",
        "number",
        "other",
        "other",
        "punctuation",
        "chat-template",
        "chat-template",
    ]
    assert classes(*texts) == expected


@pytest.mark.parametrize(
    ("before", "text", "expected"),
    [
        (" a", " the", "function word"),
        (" a", " The", "function word"),
        (" a", "\u0120THE", "function word"),
        (" a", "\u2581the", "function word"),
        (" a", "the", "word continuation"),
        (" a", "'s", "word continuation"),
        ("\u2581it", "self", "word continuation"),
        (" don't", " it", "function word"),
        (".", "It", "function word"),
        (".", "River", "other"),
        (" 12", "th", "other"),
        ("\n", "user", "other"),
        ("<|im_start|>", "user", "chat-template"),
        ("<|im_start|>", " user", "other"),
        ("<s>", "user", "other"),
        ("<|startoftext|>", "user", "other"),
        ("<s>", "\n\n", "chat-template"),
        ("<s>", "bow", "other"),
        (" user", "\n", "punctuation"),
        (" a", "\n", "punctuation"),
        (" a", " ", "punctuation"),
        (" a", "\u2581", "punctuation"),
        (" a", " --", "punctuation"),
        (" a", " =", "punctuation"),
        (" a", "7", "number"),
        (" a", " 3.5%", "number"),
        (" a", "4x", "word continuation"),
        (" a", " 4x", "other"),
        (" a", "", "other"),
        (" a", "\ufffd", "other"),
        (" a", "<s>", "chat-template"),
    ],
)
def test_one_token_after_another(before: str, text: str, expected: str) -> None:
    assert classes(" begin", " river", before, text)[-1] == expected


def test_the_first_token_is_position_0_whatever_it_is() -> None:
    for text in ("<|im_start|>", " the", "7", "", "."):
        assert classes(text, " the") == ["position 0", "function word"]


def test_without_spaces_nothing_is_called_a_continuation() -> None:
    assert classes("<s>", "the", "river", "rises") == ["position 0", "function word", "other", "other"]


def test_a_line_break_after_a_role_name_in_plain_text_is_punctuation() -> None:
    assert classes(" a", " b", "user", "\n")[-1] == "punctuation"


def test_padding_has_no_class_and_samples_do_not_mix() -> None:
    long, short = ["<s>", " a", "bow", "."], ["<s>", "bow"]
    together = token_classes(made_of(long, short))
    assert together.values.tolist() == [classes(*long), [*classes(*short), "", ""]]
    assert together.dims == ("sample", "token")
    assert together.values[1, 1] == "other"


def test_several_rules_with_tokens_of_their_own_are_refused() -> None:
    stacked = stack_rules([made_of(["<s>", " a"]), made_of(["<s>", " river", "."])], ['"one"', '"two"'])
    with pytest.raises(TraceError, match=r"each rule of this trace has tokens of its own: choose one with trace\.sel"):
        token_classes(stacked)


def test_every_class_is_listed_once_and_given() -> None:
    given = {*classes("<s>", "<s>", ".", "7", " a", "bow", " river")}
    assert given == set(CLASSES)
    assert len(CLASSES) == 7


def test_the_list_of_function_words() -> None:
    words = function_words()
    assert 140 <= len(words) <= 220
    assert all(word.isalpha() and word == word.lower() for word in words)
    assert {"the", "of", "and", "is", "not", "whose", "would", "themselves"} <= words
    assert not {"river", "run", "good", "quickly", "system", "yes"} & words
