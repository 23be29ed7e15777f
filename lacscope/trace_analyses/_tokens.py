"""Token classes, from the text of the tokens alone: no tagger, no tokenizer, no model."""

import functools
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
import xarray as xr

from lacscope.guards._withheld import is_withheld
from lacscope.traces._schema import TraceError, model_named, validate

POSITION_0 = "position 0"
CHAT_TEMPLATE = "chat-template"
PUNCTUATION = "punctuation"
NUMBER = "number"
CONTINUATION = "word continuation"
FUNCTION_WORD = "function word"
OTHER = "other"
CLASSES = (POSITION_0, CHAT_TEMPLATE, PUNCTUATION, NUMBER, CONTINUATION, FUNCTION_WORD, OTHER)
"""All classes, in order of precedence."""

ROLES = frozenset({"system", "developer", "user", "human", "assistant", "model", "tool", "function", "ipython"})
# Tokenizers write the space before a word as itself or as one of these.
_SPACE_MARKS = "\u2581\u0120"


@functools.cache
def function_words() -> frozenset[str]:
    """The packaged list of closed-class English words: articles, pronouns, prepositions, auxiliaries and the like.

    >>> "the" in function_words(), "river" in function_words()
    (True, False)
    """
    text = (files("lacscope") / "data" / "function_words.txt").read_text(encoding="utf-8")
    return frozenset(text.split())


def token_classes(trace: xr.Dataset) -> xr.DataArray:
    """Class of each token, one of :data:`CLASSES`; the first that fits, in this order.

    1. ``"position 0"``: the sample's first token.
    2. ``"chat-template"``: a special token; a role name (``user``, ``assistant``, ...) right after a special
       token that opens a message (``<|im_start|>``, ``<start_of_turn>``, ...); a line break right after
       either. The rest of a template, such as its default system text, is text like any other.
    3. ``"punctuation"``: neither a letter nor a digit in it: punctuation, symbols, line breaks, spaces.
    4. ``"number"``: digits, and no letter.
    5. ``"word continuation"``: letters without a space before them, after a token that ends in a letter
       (``"rain", "bow"``; ``"it", "'s"``). Given only in samples where some token begins with a space: where
       none does (SentencePiece's texts lose it; Chinese has none), a continuation cannot be told from a word.
    6. ``"function word"``: in the packaged list (:func:`function_words`), whatever its case.
    7. ``"other"``: the rest, mostly the first pieces of content words; also tokens whose text is not known,
       and fragments of a character.

    A sample's classes depend on its own tokens alone. A trace whose texts are withheld has its classes, made before
    they were taken out, as the variable ``token_class``.

    Returns:
        str DataArray (sample, token); ``""`` where the token is not valid.

    Raises:
        TraceError: not a trace, one whose tokens differ from rule to rule, or one with neither texts nor classes.

    >>> from lacscope.testing import synthetic_trace
    >>> classes = token_classes(synthetic_trace())
    >>> classes.dims, classes.values[0, 0]
    (('sample', 'token'), 'position 0')
    """
    trace = validate(trace)
    if "rule" in trace["valid"].dims:
        raise TraceError("each rule of this trace has tokens of its own: choose one with trace.sel(rule=...).")
    if "token_class" in trace:
        return trace["token_class"].reset_coords(drop=True).assign_attrs(_about(trace))
    if is_withheld(trace):
        raise TraceError(
            "the texts of this trace were withheld (a private benchmark's, or --no-text), so its tokens have no "
            "classes: trace the prompts again and take the classes before saving."
        )
    texts, special, valid = (trace[name].values for name in ("token_text", "special", "valid"))
    found = np.full(valid.shape, "", dtype=object)
    first = int(trace["token"].values[0]) if trace.sizes["token"] else 0
    for row in range(len(found)):
        own = valid[row]
        found[row, own] = _classes([str(text) for text in texts[row, own]], special[row, own].tolist(), first)
    classes = trace["valid"].copy(data=found)
    classes.name = "token_class"
    return classes.assign_attrs(_about(trace))


def _about(trace: xr.Dataset) -> dict[str, str]:
    return {"long_name": "class of the token, from its text", **model_named(trace.attrs)}


def _classes(texts: Sequence[str], special: Sequence[bool], first: int) -> list[str]:
    """Classes of a sample's tokens from position ``first`` on."""
    spaced = any(_begins_with_space(text) for text in texts)
    found: list[str] = []
    for index, text in enumerate(texts):
        if first + index == 0:
            found.append(POSITION_0)
        elif special[index] or _is_template(texts, special, index):
            found.append(CHAT_TEMPLATE)
        else:
            # Nothing continues a special token, though its text may end in a letter.
            before = "" if index == 0 or special[index - 1] else texts[index - 1]
            found.append(_class_of(text, before if spaced else ""))
    return found


def _is_template(texts: Sequence[str], special: Sequence[bool], index: int) -> bool:
    """Whether an ordinary token is a role name, or the line break after one or after a special token."""
    if index == 0:
        return False  # What stands before the first token of a selection is not known.
    if texts[index] in ROLES:
        return special[index - 1] and _opens_message(texts[index - 1])
    if texts[index] and not texts[index].strip("\n"):
        named = index >= 2 and texts[index - 1] in ROLES and special[index - 2] and _opens_message(texts[index - 2])
        return special[index - 1] or named
    return False


def _opens_message(text: str) -> bool:
    """``<|im_start|>`` and its like; ``<|startoftext|>`` opens a text."""
    return "start" in text and "text" not in text


def _class_of(text: str, before: str) -> str:
    word = text.strip().strip(_SPACE_MARKS)
    letter, digit = any(map(str.isalpha, word)), any(map(str.isnumeric, word))
    if not text or "\ufffd" in text:
        return OTHER
    if not letter:
        return NUMBER if digit else PUNCTUATION
    if before[-1:].isalpha() and not _begins_with_space(text):
        return CONTINUATION
    return FUNCTION_WORD if word.lower() in function_words() else OTHER


def _begins_with_space(text: str) -> bool:
    return text[:1].isspace() or text[:1] in tuple(_SPACE_MARKS)
