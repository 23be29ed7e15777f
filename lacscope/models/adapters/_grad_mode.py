"""PyTorch's grad mode for a while.

PyTorch's own contexts leave it behind where Ctrl-C comes as they are entered or left.
"""

from contextlib import suppress
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad

from lacscope.guards._temporary import Note, Temporary, temporary
from lacscope.models.adapters import _private as private


@temporary
def _grad_mode(note: Note, enabled: bool) -> None:
    note("grad mode", _set, torch, torch.is_grad_enabled())
    torch.set_grad_enabled(enabled)


def _set(_: Any, enabled: bool) -> None:
    torch.set_grad_enabled(enabled)


def without_gradients() -> Temporary[None]:
    """Nothing is kept for gradients."""
    return _grad_mode(False)


def with_gradients() -> Temporary[None]:
    """Gradients can be taken, whatever stands about it."""
    return _grad_mode(True)


@temporary
def inference(note: Note) -> None:
    """Inference mode: as without gradients, and faster; its tensors can never take part in them."""
    mode = torch.inference_mode()
    note("inference mode", _leave, mode)
    mode.__enter__()


def _leave(mode: torch.inference_mode) -> None:
    with suppress(AttributeError):  # it was not entered
        mode.__exit__(None, None, None)


@temporary
def dual_level(note: Note) -> None:
    """Forward-mode derivatives, of the tensors made dual in it."""
    note("dual level", _exit_levels, forward_ad, private.forward_level(forward_ad))
    forward_ad.enter_dual_level()


def _exit_levels(_: Any, outer: int) -> None:
    while private.forward_level(forward_ad) > outer:
        forward_ad.exit_dual_level()
