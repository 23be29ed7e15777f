"""What a tokenizer's tokens look like one by one, and which of them are control tokens. No torch."""

import re
from collections.abc import Iterable
from typing import Any

_SPACE = "\u2581"  # SentencePiece's mark for a space
_UNKNOWN_ID = (IndexError, KeyError, OverflowError, TypeError, ValueError)  # what tokenizers raise for one
_THOUGHT_MARKS = re.compile(r"</?(?:think|thinking|thought)>|\[/?THINK\]")


def special_ids(tokenizer: Any, ids: Iterable[int]) -> set[int]:
    """Those of ``ids`` that are control tokens of the tokenizer; none without a tokenizer.

    ``all_special_ids`` names bos, eos, pad and the like; the marks of a chat template may stand among the added
    tokens alone (Llama 3's), and a SentencePiece model has control pieces of its own.
    """
    if tokenizer is None:
        return set()
    asked = {int(i) for i in ids}
    named = {int(i) for i in getattr(tokenizer, "all_special_ids", None) or () if i is not None}
    added = {int(i) for i, token in _added(tokenizer).items() if getattr(token, "special", False)}
    return asked & (named | added | _control_pieces(tokenizer, asked))


def token_texts(tokenizer: Any, ids: Iterable[int]) -> dict[int, str]:
    """The text of each token, with the space that it begins with; "" for ids that the tokenizer does not know.

    A SentencePiece tokenizer strips the space of a token that is decoded alone. Bytes that are no whole character
    are written ``<0xE2>``, as tokenizers with byte fallback name them.
    """
    if tokenizer is None:
        return {}
    added = _added(tokenizer)
    return {i: _text_of(tokenizer, i, i in added) for i in sorted({int(i) for i in ids})}


def answer_text(tokenizer: Any, ids: Iterable[int]) -> str:
    """A generated answer without control tokens, but with the marks of a thought where these are control tokens.

    Without them a thought could not be told from the answer.
    """
    produced = [int(i) for i in ids]
    control = special_ids(tokenizer, produced)
    marks = {i for i in control if _THOUGHT_MARKS.fullmatch(_decoded(tokenizer, i))}
    return str(tokenizer.decode([i for i in produced if i not in control - marks], skip_special_tokens=not marks))


def _text_of(tokenizer: Any, token_id: int, is_added: bool) -> str:
    decoded, token = _decoded(tokenizer, token_id), _token(tokenizer, token_id)
    if is_added or token is None:
        return decoded
    if token.startswith(_SPACE) and not decoded[:1].isspace():
        return token.replace(_SPACE, " ")
    if "\ufffd" in decoded and "\ufffd" not in token:
        return _readable(token)
    return decoded


def _decoded(tokenizer: Any, token_id: int) -> str:
    try:
        return str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
    except _UNKNOWN_ID:
        return ""


def _token(tokenizer: Any, token_id: int) -> str | None:
    try:
        token = tokenizer.convert_ids_to_tokens(token_id)
    except (AttributeError, *_UNKNOWN_ID):
        return None
    return token if isinstance(token, str) else None


def _readable(token: str) -> str:
    """A token of byte-level BPE, one character a byte, whose bytes are no whole characters."""
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return token
    known = _bytes_of_characters()
    if not set(token) <= set(known):
        return token
    rest, found = bytes(known[character] for character in token), ""
    while rest:
        try:
            return found + rest.decode("utf-8")
        except UnicodeDecodeError as error:
            broken = "".join(f"<0x{byte:02X}>" for byte in rest[error.start : error.end])
            found, rest = found + rest[: error.start].decode("utf-8") + broken, rest[error.end :]
    return found


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _added(tokenizer: Any) -> dict[int, Any]:
    return dict(getattr(tokenizer, "added_tokens_decoder", None) or {})


def _control_pieces(tokenizer: Any, ids: Iterable[int]) -> set[int]:
    """Control pieces of a slow tokenizer's SentencePiece model."""
    model = getattr(tokenizer, "sp_model", None)
    if model is None or not hasattr(model, "is_control"):
        return set()
    return {i for i in ids if 0 <= i < model.get_piece_size() and model.is_control(i)}
