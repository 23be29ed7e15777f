"""What the user gives -> token ids, with every refusal in words."""

import re
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from torch import Tensor

from lacscope.guards._arguments import did_you_mean
from lacscope.models.adapters import Adapter

Chat = Sequence[Mapping[str, Any]]


class InputError(ValueError):
    """Inputs that cannot be read; the message says what was given and what is possible."""


class InputWarning(UserWarning):
    """Inputs that are read, but hardly as they were meant; the message says what to give instead."""


class PaddingWarning(UserWarning):
    """A batch came without an attention mask: pads cannot be told from ids, so all its tokens count."""


_KINDS = (
    "a str, a list of str, one chat (a list of {'role', 'content'}), a list of chats, token ids (a list of int, "
    "or a list of such lists), or an integer tensor or array of shape [pos] or [batch, pos]"
)

_RESPONSES = "responses= takes one answer per input: a list of str, or of lists of token ids"


def read_inputs(
    adapter: Adapter,
    inputs: Any,
    attention_mask: Any = None,
    *,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[list[int]]:
    """Token ids of each sample.

    A str gives exactly the tokens that ``model(str)`` reads, a chat its template with the generation prompt; text
    that then begins with two BOS tokens gives an :class:`InputWarning`. numpy arrays and pandas columns are read as
    the tensors or lists that they are. With ``attention_mask`` the masked-out columns of a ``[batch, pos]`` tensor
    are dropped. A tensor without one whose rows begin or end with different numbers of the tokenizer's pad token gives
    a :class:`PaddingWarning`. ``chat_template_kwargs`` are options of the chat template, and so go with chats alone.
    """
    given = _plain(inputs)
    if chat_template_kwargs and not _holds_chats(given):
        raise InputError("chat_template_kwargs= are options of the chat template: they go with chats alone.")
    if isinstance(given, Tensor):
        rows = _check_ids(adapter, _from_tensor(given, attention_mask))
        if attention_mask is None:
            _warn_of_pads(adapter, rows)
        return rows
    if attention_mask is not None:
        raise InputError("attention_mask= goes with an integer tensor [batch, pos]; other inputs need no mask.")
    if isinstance(given, str):
        return _check_ids(adapter, [_from_text(adapter, given, 0)])
    if not _is_list(given) or not given:
        raise InputError(f"inputs must be {_KINDS}; got {'an empty list' if inputs == [] else repr(inputs)[:80]}.")
    return _check_ids(adapter, _from_list(adapter, given, chat_template_kwargs or {}))


def _plain(inputs: Any) -> Any:
    """Arrays and columns as an integer tensor or as lists; anything else as it is."""
    if isinstance(inputs, Tensor):
        return inputs
    if hasattr(inputs, "__array__"):
        array = np.asarray(inputs)
        if array.dtype.kind in "OUT" and array.ndim == 1:
            return [_plain_item(item) for item in array.tolist()]
        if array.dtype.kind not in "iu" or array.ndim not in (1, 2) or array.size == 0:
            raise InputError(
                "an array of inputs must hold token ids, [pos] or [batch, pos], or one text or chat a prompt; got "
                f"{array.dtype} {array.shape} ({type(inputs).__name__})."
            )
        return torch.from_numpy(array.astype(np.int64))
    return [_plain_item(item) for item in inputs] if _is_list(inputs) else inputs


def _plain_item(item: Any) -> Any:
    """One prompt of a list: an array or tensor of ids as a list, one of its ids as an int."""
    return item.tolist() if isinstance(item, Tensor) or hasattr(item, "__array__") else item


def _is_list(item: Any) -> bool:
    """A sequence of several things; text and bytes are one."""
    return isinstance(item, Sequence) and not isinstance(item, (str, bytes, bytearray, memoryview))


def _holds_chats(inputs: Any) -> bool:
    if not _is_list(inputs):
        return False
    return any(
        isinstance(item, Mapping) or (_is_list(item) and any(isinstance(m, Mapping) for m in item)) for item in inputs
    )


def _from_list(adapter: Adapter, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[list[int]]:
    if all(isinstance(item, str) for item in inputs):
        return [_from_text(adapter, text, i) for i, text in enumerate(inputs)]
    if all(isinstance(item, Mapping) for item in inputs):
        return [_from_chat(adapter, inputs, 0, options)]
    if all(_is_int(item) for item in inputs):
        return [[int(item) for item in inputs]]
    if all(_is_list(item) for item in inputs):
        if all(len(item) and all(isinstance(message, Mapping) for message in item) for item in inputs):
            return [_from_chat(adapter, chat, i, options) for i, chat in enumerate(inputs)]
        if all(all(_is_int(token) for token in item) for item in inputs):
            return [[int(token) for token in item] for item in inputs]
    raise InputError(f"inputs must be {_KINDS}, all of one kind; got a list of {_kinds(inputs)}.")


def _kinds(items: Sequence[Any]) -> str:
    """What a list holds, one level down too: ``"int, list of str"``."""
    names = set()
    for item in items:
        nested = isinstance(item, (list, tuple)) and len(item) > 0
        names.add(type(item).__name__ + (f" of {'/'.join(sorted({type(i).__name__ for i in item}))}" if nested else ""))
    return ", ".join(sorted(names))


def _is_int(item: Any) -> bool:
    return isinstance(item, Integral) and not isinstance(item, bool)


def _from_tensor(inputs: Tensor, attention_mask: Any) -> list[list[int]]:
    whole = not (inputs.is_floating_point() or inputs.is_complex() or inputs.dtype == torch.bool)
    if not whole or inputs.ndim not in (1, 2) or inputs.numel() == 0:
        raise InputError(
            f"a tensor of inputs must hold token ids, [pos] or [batch, pos]; got {inputs.dtype} {tuple(inputs.shape)}."
        )
    rows = inputs.unsqueeze(0) if inputs.ndim == 1 else inputs
    if attention_mask is None:
        return rows.tolist()
    mask = torch.as_tensor(attention_mask)
    if mask.shape != inputs.shape:
        raise InputError(f"attention_mask is {tuple(mask.shape)}, the inputs are {tuple(inputs.shape)}.")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError("attention_mask must be 1 (or True) on real tokens and 0 (or False) on padding.")
    keep = mask.reshape(rows.shape).bool().to(rows.device)
    return [row[kept].tolist() for row, kept in zip(rows, keep, strict=True)]


def _warn_of_pads(adapter: Adapter, rows: list[list[int]]) -> None:
    """Pads cannot be told from ids (pad is often EOS), but rows that differ in how many they have look padded."""
    pad = getattr(adapter.tokenizer, "pad_token_id", None)
    if pad is None:
        return
    for ordered in (rows, [row[::-1] for row in rows]):
        leading = {next((i for i, token in enumerate(row) if token != pad), len(row)) for row in ordered}
        if len(leading) > 1:
            warnings.warn(
                f"the rows of the tensor begin or end with {min(leading)} to {max(leading)} pad tokens (id {pad}), "
                "which count as tokens of the prompts. Give attention_mask= where there is one, or lists of ids "
                "without padding.",
                PaddingWarning,
                stacklevel=3,
            )
            return


def _tokenizer(adapter: Adapter, what: str) -> Any:
    if adapter.tokenizer is None:
        raise InputError(f"{adapter.name} has no tokenizer, so {what} cannot be read: pass token ids.")
    return adapter.tokenizer


def _from_text(adapter: Adapter, text: str, index: int) -> list[int]:
    tokenizer = _tokenizer(adapter, "text")
    if not text:
        raise InputError(f"prompt {index} is empty. Give at least one character, or token ids.")
    _check_characters(text, f"prompt {index}")
    # Not moved to the model's weights: offloaded ones are on no device.
    ids: list[int] = adapter.model.to_tokens(text, truncate=False, move_to_device=False)[0].tolist()
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None and ids[:2] == [bos, bos]:
        warnings.warn(
            f"prompt {index} is read with two BOS tokens ({tokenizer.bos_token!r}): the text has one, as a rendered "
            "chat does, and the tokenizer puts another before it. Give the chat itself (a list of {'role', "
            "'content'}), the text without its BOS, or token ids.",
            InputWarning,
            stacklevel=3,
        )
    return ids


def _check_characters(text: str, what: str) -> None:
    """Half a surrogate pair is no character: tokenizers raise on it, or read something else."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} has half a character, U+{ord(text[error.start]):04X} at {error.start}: a cut emoji, or bytes of "
            "another encoding. Read its file with the right encoding=, or mend the text with "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
        ) from None


def _check_message(message: Mapping[str, Any], what: str) -> None:
    if not {"role", "content"} <= set(message):
        raise InputError(f"{what}: a message needs 'role' and 'content', got keys {sorted(message)}.")
    if not isinstance(message["role"], str):
        raise InputError(f"{what}: a message's 'role' must be text, got {message['role']!r:.80}.")
    content = message["content"]
    # A call of a tool has no words; parts of several kinds are for the template to take or to refuse.
    if not isinstance(content, (str, list, tuple)) and not (content is None and message.get("tool_calls")):
        raise InputError(f"{what}: a message's 'content' must be text, got {content!r:.80}.")
    parts = [content] if isinstance(content, str) else [p.get("text") for p in content or () if isinstance(p, Mapping)]
    for part in parts:
        if isinstance(part, str):
            _check_characters(part, what)


def _from_chat(adapter: Adapter, chat: Chat, index: int, options: Mapping[str, Any]) -> list[int]:
    tokenizer = _tokenizer(adapter, "a chat")
    for message in chat:
        _check_message(message, f"chat {index}")
    if chat[-1]["role"] == "assistant":
        raise InputError(
            f"chat {index} ends with the assistant's message. To trace a given answer, leave it out of the chat and "
            "pass it as responses=[...]."
        )
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise InputError(
            f"{adapter.name}'s tokenizer has no chat template, so chats cannot be read. Pass text, or set "
            "model.tokenizer.chat_template to the template that the model was trained with."
        )
    check_template_options(adapter, str(template), options)
    # Tokenised by the template itself: its text through the tokenizer would get a second BOS.
    fixed = {"tokenize": True, "add_generation_prompt": True, "return_dict": False}
    try:
        return list(tokenizer.apply_chat_template([dict(message) for message in chat], **options, **fixed))
    except TemplateError as error:
        raise InputError(f"{adapter.name}'s chat template refuses chat {index}: {error}") from error


def check_template_options(adapter: Adapter, template: str, options: Mapping[str, Any]) -> None:
    """A template ignores a name that it does not have, so a misspelt option would change nothing, silently."""
    words = set(re.findall(r"[A-Za-z_]\w*", template))
    for name in options:
        if name not in words:
            raise InputError(
                f"{adapter.name}'s chat template has no option {name!r:.40}, so chat_template_kwargs would change "
                f"nothing.{did_you_mean(name, words)}"
            )


def read_responses(adapter: Adapter, responses: Any, n_samples: int) -> list[list[int]]:
    """Token ids of the given answers, without special tokens; one for each sample."""
    if isinstance(responses, Tensor) or hasattr(responses, "__array__"):
        responses = responses.tolist()
    if not isinstance(responses, str) and not _is_list(responses):
        raise InputError(f"{_RESPONSES}; got {responses!r:.80}.")
    given: list[Any] = [responses] if isinstance(responses, str) else [_plain_item(item) for item in responses]
    if given and all(_is_int(item) for item in given):
        given = [given]
    if len(given) != n_samples:
        raise InputError(f"responses= has {len(given)} answers for {n_samples} inputs.")
    if all(isinstance(item, str) for item in given):
        given = [_from_response(adapter, text, index) for index, text in enumerate(given)]
    elif not all(_is_list(item) and all(_is_int(token) for token in item) for item in given):
        raise InputError(f"{_RESPONSES}; got a list of {_kinds(given)}.")
    empty = [i for i, ids in enumerate(given) if len(ids) == 0]
    if empty:
        raise InputError(f"response {empty[0]} is empty.")
    return _check_ids(adapter, [[int(token) for token in ids] for ids in given], "response")


def _from_response(adapter: Adapter, text: str, index: int) -> list[int]:
    tokenizer = _tokenizer(adapter, "text")
    _check_characters(text, f"response {index}")
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    # TransformerLens's tokenizer may prepend BOS all the same.
    bos = tokenizer.bos_token_id
    ids = ids[1:] if ids and ids[0] == bos else ids
    if bos is not None and ids[:1] == [bos]:
        warnings.warn(
            f"response {index} begins with a BOS token ({tokenizer.bos_token!r}), read in the middle of its sample: "
            "the prompt has its own. Give the answer's text alone.",
            InputWarning,
            stacklevel=3,
        )
    return ids


def _check_ids(adapter: Adapter, rows: list[list[int]], what: str = "prompt") -> list[list[int]]:
    for index, ids in enumerate(rows):
        if not ids:
            raise InputError(f"{what} {index} has no tokens. Give at least one.")
        outside = [i for i in ids if not 0 <= i < adapter.vocab_size]
        if outside:
            raise InputError(
                f"{what} {index} has token id {outside[0]}; {adapter.name} has ids 0 to {adapter.vocab_size - 1}."
            )
    return rows


def check_lengths(adapter: Adapter, rows: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise InputError where a sample, with what is to be generated, does not fit the context."""
    limit = adapter.context_length
    if limit is None:
        return
    generated = max(0, max_new_tokens - 1)
    for index, ids in enumerate(rows):
        if len(ids) + generated > limit:
            more = f" and {generated} generated ones to read" if generated else ""
            raise InputError(
                f"prompt {index} has {len(ids)} tokens{more}; the context of {adapter.name} holds {limit}. "
                "Shorten the prompt (or the given answer) or lower max_new_tokens."
            )
