"""Taking off by hand what a context of lacscope's put on a model."""

from collections import Counter
from typing import Any

from lacscope.guards._temporary import Changes, finish, open_changes
from lacscope.models.adapters import Adapter, adapter_of


def restore(model: Any) -> dict[str, int]:
    """Take everything off a model that lacscope has put on it: its hooks, its functions, what it exchanged.

    It is not needed in the ordinary run of things: a context undoes its changes whatever happens, also where Ctrl-C
    comes as it is entered or left, and where its undoing was itself interrupted the next call finishes it. A context
    that is still open ends here: on leaving it nothing more is undone, and what runs in it until then runs the plain
    model.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.

    Returns:
        What was taken off, and how many of each, such as ``{"hook": 8, "function around forward": 1}``; empty where
        the model carried nothing.

    Raises:
        TypeError: anything else than such a model.

    >>> lacscope.restore(model)  # doctest: +SKIP
    {}
    """
    adapter = adapter_of(model)
    found: Counter[str] = Counter()
    for changes in reversed(_touching(adapter)):
        found.update(what for what, *_ in changes.undos)
        changes.undo()
    finish()
    return dict(found)


def _touching(adapter: Adapter) -> list[Changes]:
    own = {id(module) for module in (adapter.model, *adapter.modules(), *adapter.hook_points())}
    return [changes for changes in open_changes() if any(id(owner) in own for _, _, owner, _ in changes.undos)]
