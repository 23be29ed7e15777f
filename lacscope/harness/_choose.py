"""Words of a command line -> a rule, and lm-eval's tasks."""

import os
from collections.abc import Sequence
from typing import Any

from lm_eval.tasks import TaskManager

from lacscope.rules import FixedLayers, HaltingRule, L2AdaptiveComputation
from lacscope.rules._registry import RULES
from lacscope.rules._registry import rule as rule_named


def find_tasks(
    tasks: Sequence[Any], include_path: str | os.PathLike[str] | None = None
) -> tuple[TaskManager, list[Any]]:
    """lm-eval's task manager, and the tasks with patterns such as ``"mmlu_*"`` written out.

    Raises ValueError for a name that lm-eval does not know.
    """
    names = [task for task in tasks if isinstance(task, str)]
    # Reading the index of lm-eval's own thousands of tasks takes seconds.
    manager = TaskManager(
        include_path=None if include_path is None else os.fspath(include_path), include_defaults=bool(names)
    )
    matches = {name: manager.match_tasks([name]) for name in names}
    unknown = [task for task, found in matches.items() if not found]
    if unknown:
        raise ValueError(
            f"lm-eval knows no task {', '.join(map(repr, unknown))}. `lm-eval ls tasks` lists its own; a task of yours "
            "needs include_path= (--include-path), the folder that has its YAML file."
        )
    return manager, [name for task in tasks for name in (matches[task] if isinstance(task, str) else [task])]


def resolve_rule(
    rule: HaltingRule | str | None = None,
    *,
    alpha: float | int | None = None,
    layers: str | int | Sequence[int] | None = None,
    unit: str = "block",
) -> HaltingRule | None:
    """The rule that a command line names: ``"lac"`` with alpha, ``"fixed"`` with layers, a registered one, or None.

    ``layers`` as text are indices with semicolons between: ``"3;7;-1"``. Without a name, ``alpha`` means
    ``"lac"`` and ``layers`` ``"fixed"``. Raises ValueError for anything else.

    >>> resolve_rule(layers="3;-1")
    FixedLayers(layers=(-1, 3), unit='block')
    """
    if rule is not None and not isinstance(rule, str):
        if alpha is not None or layers is not None:
            raise ValueError(f"{rule!r} is a whole rule: alpha= and layers= go with rule='lac' and rule='fixed'.")
        return rule
    if alpha is not None and layers is not None:
        raise ValueError("alpha= makes the rule 'lac', layers= the rule 'fixed': give one of them.")
    name = rule or ("lac" if alpha is not None else "fixed" if layers is not None else None)
    if name is None:
        return None
    if name == "lac" and layers is None:
        return L2AdaptiveComputation(0.8 if alpha is None else alpha, unit)  # type: ignore[arg-type]
    if name == "fixed" and layers is not None:
        return FixedLayers(_layer_indices(layers), unit)  # type: ignore[arg-type]
    if name not in ("lac", "fixed"):
        if name not in RULES:
            own = ", ".join(repr(one) for one in RULES if one != "lac") or "none"
            raise ValueError(
                f"unknown rule {name!r}; choose 'lac' (with alpha=), 'fixed' (with layers=), or one that is registered "
                f"({own})."
            )
        if layers is not None or unit != "block":
            raise ValueError(f"the registered rule {name!r} takes alpha= alone, not layers= or unit=.")
        return rule_named(name, alpha)
    raise ValueError("rule='fixed' needs layers=." if name == "fixed" else "rule='lac' takes alpha=, not layers=.")


def _layer_indices(layers: str | int | Sequence[int]) -> list[int]:
    if isinstance(layers, int):
        return [layers]
    try:
        return [int(layer) for layer in (layers.split(";") if isinstance(layers, str) else layers)]
    except ValueError:
        raise ValueError(f"layers must be block indices such as '3;7;-1', got {layers!r}.") from None
