"""What the user gives -> token ids, with every refusal in words."""

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from lacscope.adapters import Adapter
from lacscope.hooks import PaddingWarning

Chat = Sequence[Mapping[str, str]]


class InputError(ValueError):
    """Inputs that cannot be read; the message says what was given and what is possible."""


_KINDS = (
    "a str, a list of str, one chat (a list of {'role', 'content'}), a list of chats, token ids (a list of int, "
    "or a list of such lists), or an integer tensor of shape [pos] or [batch, pos]"
)

_RESPONSES = "responses= takes one answer per input: a list of str, or of lists of token ids"


def read_inputs(adapter: Adapter, inputs: Any, attention_mask: Tensor | None = None) -> list[list[int]]:
    """Token ids of each sample.

    A str gives exactly the tokens that ``model(str)`` reads, a chat its template with the generation prompt.
    With ``attention_mask`` the masked-out columns of a ``[batch, pos]`` tensor are dropped. A tensor without one whose
    rows begin or end with different numbers of the tokenizer's pad token gives a :class:`PaddingWarning`.
    """
    if isinstance(inputs, Tensor):
        rows = _check_ids(adapter, _from_tensor(inputs, attention_mask))
        if attention_mask is None:
            _warn_of_pads(adapter, rows)
        return rows
    if attention_mask is not None:
        raise InputError("attention_mask= goes with an integer tensor [batch, pos]; other inputs need no mask.")
    if isinstance(inputs, str):
        return _check_ids(adapter, [_from_text(adapter, inputs, 0)])
    if not isinstance(inputs, Sequence) or len(inputs) == 0:
        raise InputError(f"inputs must be {_KINDS}; got {'an empty list' if inputs == [] else repr(inputs)[:80]}.")
    return _check_ids(adapter, _from_list(adapter, inputs))


def _from_list(adapter: Adapter, inputs: Sequence[Any]) -> list[list[int]]:
    if all(isinstance(item, str) for item in inputs):
        return [_from_text(adapter, text, i) for i, text in enumerate(inputs)]
    if all(isinstance(item, Mapping) for item in inputs):
        return [_from_chat(adapter, inputs, 0)]
    if all(_is_int(item) for item in inputs):
        return [[int(item) for item in inputs]]
    if all(isinstance(item, Sequence) and not isinstance(item, str) for item in inputs):
        if all(len(item) and all(isinstance(message, Mapping) for message in item) for item in inputs):
            return [_from_chat(adapter, chat, i) for i, chat in enumerate(inputs)]
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


def _from_tensor(inputs: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
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
    _tokenizer(adapter, "text")
    if not text:
        raise InputError(f"prompt {index} is empty. Give at least one character, or token ids.")
    # Not moved to the model's weights: offloaded ones are on no device.
    return adapter.model.to_tokens(text, truncate=False, move_to_device=False)[0].tolist()


def _from_chat(adapter: Adapter, chat: Chat, index: int) -> list[int]:
    tokenizer = _tokenizer(adapter, "a chat")
    for message in chat:
        if not {"role", "content"} <= set(message):
            raise InputError(f"chat {index}: a message needs 'role' and 'content', got keys {sorted(message)}.")
    if chat[-1]["role"] == "assistant":
        raise InputError(
            f"chat {index} ends with the assistant's message. To trace a given answer, leave it out of the chat and "
            "pass it as responses=[...]."
        )
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{adapter.name}'s tokenizer has no chat template, so chats cannot be read. Pass text, or set "
            "model.tokenizer.chat_template to the template that the model was trained with."
        )
    # Tokenised by the template itself: its text through the tokenizer would get a second BOS.
    options = {"tokenize": True, "add_generation_prompt": True, "return_dict": False}
    try:
        return list(tokenizer.apply_chat_template([dict(message) for message in chat], **options))
    except TemplateError as error:
        raise InputError(f"{adapter.name}'s chat template refuses chat {index}: {error}") from error


def read_responses(adapter: Adapter, responses: Any, n_samples: int) -> list[list[int]]:
    """Token ids of the given answers, without special tokens; one for each sample."""
    if not isinstance(responses, (str, Sequence)):
        raise InputError(f"{_RESPONSES}; got {responses!r:.80}.")
    given: list[Any] = [responses] if isinstance(responses, str) else list(responses)
    if given and all(_is_int(item) for item in given):
        given = [given]
    if len(given) != n_samples:
        raise InputError(f"responses= has {len(given)} answers for {n_samples} inputs.")
    if all(isinstance(item, str) for item in given):
        tokenizer = _tokenizer(adapter, "text")
        given = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in given]
        # TransformerLens's tokenizer may prepend BOS all the same.
        bos = tokenizer.bos_token_id
        given = [ids[1:] if ids and ids[0] == bos else ids for ids in given]
    elif not all(isinstance(item, Sequence) and all(_is_int(token) for token in item) for item in given):
        raise InputError(f"{_RESPONSES}; got a list of {_kinds(given)}.")
    empty = [i for i, ids in enumerate(given) if len(ids) == 0]
    if empty:
        raise InputError(f"response {empty[0]} is empty.")
    return _check_ids(adapter, [[int(token) for token in ids] for ids in given], "response")


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
