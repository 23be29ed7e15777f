"""Whether a model's weights are those that were seen before, told without reading all of them."""

import math
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from lacscope.models.adapters._grad_mode import without_gradients
from lacscope.models.adapters._private import edits_of
from lacscope.models.adapters._weights import is_subclass

_MOST = 64  # numbers read of a tensor


class SeenWeights:
    """The weights of a module as they stood.

    A module or a tensor that was put in another's place is told, and a tensor that was changed in place. A change
    through ``tensor.data`` leaves no mark of torch's; it is told where it meets one of 64 numbers of the tensor, spread
    over its rows and columns.

    >>> layer = nn.Linear(3, 2)
    >>> seen = SeenWeights(layer)
    >>> seen.unchanged()
    True
    >>> with torch.no_grad():
    ...     _ = layer.weight.mul_(2)
    >>> seen.unchanged()
    False
    """

    def __init__(self, root: nn.Module) -> None:
        dicts = [held for module in root.modules() for held in (module._modules, module._parameters, module._buffers)]
        self._empty = [held for held in dicts if not held]
        self._full: list[tuple[dict[str, Any], list[Any]]] = [(held, list(held.values())) for held in dicts if held]
        self._tensors = [one for _, values in self._full for one in values if isinstance(one, Tensor)]
        self._read = [(one, _step(one)) for one in self._tensors if _readable(one) and one.numel()]
        # Made once: a view sees what is written in place, and a tensor put elsewhere is told by where it lies.
        self._views = [one.detach().view(-1)[::step] if one.is_contiguous() else None for one, step in self._read]
        self._marks, self._numbers = self._marked(), self._sampled()

    def unchanged(self) -> bool:
        """True where nothing of it has changed."""
        return (
            not any(self._empty)
            and all(len(held) == len(values) and all(map(is_, held.values(), values)) for held, values in self._full)
            and self._marked() == self._marks
            and self._sampled() == self._numbers
        )

    def _marked(self) -> list[int]:
        """Where each tensor lies, and how often it was changed in place."""
        places = [one.data_ptr() for one, _ in self._read]
        return places + [0 if one.is_inference() else edits_of(one) for one in self._tensors]

    def _sampled(self) -> bytes:
        found: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        with without_gradients():
            for (tensor, step), view in zip(self._read, self._views, strict=True):
                numbers = tensor.reshape(-1)[::step] if view is None else view
                found.setdefault((tensor.device, tensor.dtype), []).append(numbers)
            return b"".join(torch.cat(some).cpu().view(torch.uint8).numpy().tobytes() for some in found.values())


def _readable(tensor: Tensor) -> bool:
    """True for one that has its numbers itself, and on a device."""
    return tensor.device.type != "meta" and not is_subclass(tensor)


def _step(tensor: Tensor) -> int:
    """The step that reads so many numbers at most, in other columns each and rows all over the tensor."""
    columns = tensor.shape[-1] if tensor.ndim else 1
    step = max(1, math.ceil(tensor.numel() / _MOST))
    while math.gcd(step, columns) > 1:
        step += 1
    return step
