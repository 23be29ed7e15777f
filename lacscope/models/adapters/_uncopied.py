"""A function of ours on a model: it works as the function, and refuses to be copied with the model."""

import functools
from typing import Any, NoReturn

_COPIED = (
    "the model is inside a lacscope context (halting, a plan, a trace under way), and a copy would keep what that has "
    "put on it: copy the model before the context or after it. If none is open, lacscope.restore(model) takes off what "
    "an interrupted one left."
)


class Uncopied:
    """Refuses copy.deepcopy, pickle and torch.save of whatever holds it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise RuntimeError(_COPIED)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise RuntimeError(_COPIED)


class Ours(Uncopied, functools.partial[Any]):
    """A function, as an object of our own."""
