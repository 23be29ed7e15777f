"""Tokens one by one: their texts, their bytes, and which of them are control tokens."""

from types import SimpleNamespace
from typing import Any

import pytest

from lacscope.tracing._token_text import answer_text, special_ids, token_texts

pytestmark = pytest.mark.once


class Pieces:
    """A tokenizer of given pieces: what it decodes each to, what it calls it, and what its model knows of it."""

    def __init__(self, decoded: dict[int, str], tokens: dict[int, Any] | None = None, **more: Any) -> None:
        self.decoded, self.tokens = decoded, decoded if tokens is None else tokens
        for name, value in more.items():
            setattr(self, name, value)

    def decode(self, ids: list[int], **options: Any) -> str:
        skip = set(getattr(self, "all_special_ids", ())) if options.get("skip_special_tokens") else set()
        return "".join(self.decoded[i] for i in ids if i not in skip)

    def convert_ids_to_tokens(self, token_id: int) -> Any:
        return self.tokens[token_id]


def byte_level(texts: list[str]) -> Any:
    """A real byte-level tokenizer whose only tokens are the 256 bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


# --- texts ----------------------------------------------------------------------------------------------


def test_a_token_keeps_the_space_that_decoding_alone_strips() -> None:
    tokenizer = Pieces({0: "river", 1: "", 2: " wood", 3: "s"}, {0: "▁river", 1: "▁▁", 2: "▁wood", 3: "s"})
    assert token_texts(tokenizer, [3, 0, 1, 2]) == {0: " river", 1: "  ", 2: " wood", 3: "s"}


def test_an_added_token_is_shown_as_it_is_decoded() -> None:
    added = {0: SimpleNamespace(special=False)}
    tokenizer = Pieces({0: "mark", 1: "mark"}, {0: "▁mark", 1: "▁mark"}, added_tokens_decoder=added)
    assert token_texts(tokenizer, [0, 1]) == {0: "mark", 1: " mark"}


@pytest.mark.parametrize("text", ["é", "東", "🙂", "\x00", " \n"])
def test_bytes_that_are_no_character_are_written_as_bytes(text: str) -> None:
    tokenizer = byte_level([text])
    ids = tokenizer(text)["input_ids"]
    encoded = text.encode()
    assert len(ids) == len(encoded)
    shown = token_texts(tokenizer, ids)
    expected = [chr(byte) if byte < 128 else f"<0x{byte:02X}>" for byte in encoded]
    assert [shown[i] for i in ids] == expected


def test_a_token_of_whole_characters_and_loose_bytes_shows_both() -> None:
    # GPT-2's names of the bytes of "aé", then of the first byte of three.
    tokenizer = Pieces({0: "aé\ufffd", 1: "\ufffdb"}, {0: "aÃ©â", 1: "Ģb"})
    assert token_texts(tokenizer, [0, 1]) == {0: "aé<0xE2>", 1: "<0x80>b"}


def test_a_byte_token_and_a_token_of_other_letters_keep_their_names() -> None:
    tokenizer = Pieces({0: "\ufffd", 1: "\ufffd", 2: "\ufffd"}, {0: "<0xE2>", 1: "東", 2: "\ufffd"})
    assert token_texts(tokenizer, [0, 1, 2]) == {0: "<0xE2>", 1: "東", 2: "\ufffd"}


@pytest.mark.parametrize("error", [IndexError, KeyError, OverflowError, TypeError, ValueError])
def test_an_id_that_the_tokenizer_does_not_know_has_no_text(error: type[Exception]) -> None:
    class Unknowing:
        def decode(self, ids: list[int], **options: Any) -> str:
            raise error

        convert_ids_to_tokens = decode

    assert token_texts(Unknowing(), [5]) == {5: ""}


def test_an_accident_is_no_unknown_id() -> None:
    class Broken:
        def decode(self, ids: list[int], **options: Any) -> str:
            raise RuntimeError("poisoned")

    with pytest.raises(RuntimeError, match="poisoned"):
        token_texts(Broken(), [5])


def test_a_tokenizer_that_names_no_tokens_is_decoded() -> None:
    assert token_texts(SimpleNamespace(decode=lambda ids, **options: f"t{ids[0]}"), [4, 2, 4]) == {2: "t2", 4: "t4"}


def test_without_a_tokenizer_there_are_no_texts_and_no_control_tokens() -> None:
    assert token_texts(None, [1]) == {}
    assert special_ids(None, [1]) == set()


# --- control tokens -------------------------------------------------------------------------------------


def test_control_tokens_are_the_named_the_added_and_the_pieces() -> None:
    model = SimpleNamespace(get_piece_size=lambda: 8, is_control=lambda i: i == 6)
    tokenizer = SimpleNamespace(
        all_special_ids=[1, None, 2],
        added_tokens_decoder={3: SimpleNamespace(special=True), 4: SimpleNamespace(special=False)},
        sp_model=model,
    )
    assert special_ids(tokenizer, [1, 3, 4, 5, 6, 90, -1]) == {1, 3, 6}
    assert special_ids(tokenizer, range(8)) == {1, 2, 3, 6}
    assert special_ids(SimpleNamespace(sp_model=object()), [1]) == set()


def test_control_tokens_of_a_real_tokenizer(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["plain"])
    tokenizer.add_tokens(["<mark>"], special_tokens=True)
    ids = {text: tokenizer.convert_tokens_to_ids(text) for text in ("plain", "<mark>", "river", "</s>")}
    assert special_ids(tokenizer, ids.values()) == {ids["<mark>"], ids["</s>"]}


# --- answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<thought>", "</thought>"), ("[THINK]", "[/THINK]")],
)
@pytest.mark.parametrize("special", [True, False])
def test_an_answer_keeps_the_marks_of_its_thought(opening: str, closing: str, special: bool) -> None:
    decoded = {0: opening, 1: " it may", 2: closing, 3: " True", 4: "<end>", 5: "<|other|>"}
    added = {0: SimpleNamespace(special=special), 2: SimpleNamespace(special=special), 4: SimpleNamespace(special=True)}
    named = [4, 5, 0, 2] if special else [4, 5]
    tokenizer = Pieces(decoded, all_special_ids=named, added_tokens_decoder=added)
    assert answer_text(tokenizer, [0, 1, 2, 5, 3, 4]) == f"{opening} it may{closing} True"
    assert answer_text(tokenizer, [3, 4]) == " True"
