"""A model in evaluation mode for a while, and what training mode would change of its numbers."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from lacscope.guards._temporary import Note, temporary

_RANDOM = ("drop", "jitter")


@temporary
def evaluating(note: Note, modules: Iterable[nn.Module]) -> None:
    """These modules in evaluation mode; each gets its own flag back, whatever happens."""
    # The flag itself, not ``train(False)``: some modules do more than that on being asked (merge their adapters).
    for module in modules:
        if module.training:
            note("training mode", setattr, module, "training", True)
            module.training = False


def random_in_training(modules: Iterable[nn.Module]) -> str:
    """What is drawn anew in every pass because modules are in training mode, such as "p = 0.1"; "" for nothing."""
    found: set[Any] = set()
    for module in modules:
        if not module.training:
            continue
        if isinstance(module, nn.modules.dropout._DropoutNd):
            found.add(module.p)
            continue
        found.update(
            value
            for name, value in vars(module).items()
            if isinstance(value, float) and any(word in name for word in _RANDOM)
        )
    found.discard(0.0)
    return "p = " + ", ".join(f"{value:g}" for value in sorted(found)) if found else ""
