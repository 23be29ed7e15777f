"""What a model thinks before it answers, between ``<think>`` and ``</think>``: not part of the answer."""

import re
from typing import Literal

Thought = Literal["none", "closed", "open"]

_OPENS = r"(?:<(?:think|thinking|thought)>|\[THINK\])"
_ENDS = r"(?:</(?:think|thinking|thought)>|\[/THINK\])"
_OPENING, _CLOSING = re.compile(_OPENS, re.IGNORECASE), re.compile(_ENDS, re.IGNORECASE)
_WHOLE = re.compile(rf"{_OPENS}.*?{_ENDS}", re.IGNORECASE | re.DOTALL)


def without_thoughts(text: str) -> str:
    """The answer alone, without what stands in a thought; "" where it never leaves one.

    A closing mark without an opening one ends a thought too: some chat templates open it in the prompt.

    >>> without_thoughts("<think>It may be false.</think>\\n\\nTrue")
    'True'
    >>> without_thoughts("It may be false.</think> True"), without_thoughts("<think>It may be")
    ('True', '')
    """
    if thought_in(text) == "none":
        return text
    after = _CLOSING.split(_WHOLE.sub(" ", text))[-1]
    return _OPENING.split(after)[0].strip()


def thought_in(text: str) -> Thought:
    """Whether an answer thinks: not at all, to an end, or without an end.

    >>> thought_in("True"), thought_in("<think>\\n</think>True"), thought_in("<think>Or else")
    ('none', 'closed', 'open')
    """
    after = _CLOSING.split(_WHOLE.sub("", text))[-1]
    if _OPENING.search(after):
        return "open"
    return "closed" if _CLOSING.search(text) else "none"


def ends_in_thought(prompt: str) -> bool:
    """Whether a prompt ends with an opening mark, as a template's may, so that the answer begins as a thought.

    >>> ends_in_thought("<|im_start|>assistant\\n<think>\\n"), ends_in_thought("Write <think> first.")
    (True, False)
    """
    opened = list(_OPENING.finditer(prompt))
    return bool(opened) and not prompt[opened[-1].end() :].strip()
