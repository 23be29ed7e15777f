"""Which run of which block a model is in while its blocks run in another order than its own.

What measures a pass counts the blocks as they fire; under a plan (:mod:`lacscope.plans`) that is not by their index.
The plan writes here where it is, and whoever hooks the blocks can look.
"""

import json
from dataclasses import dataclass
from typing import Any

from lacscope.guards._temporary import Note, temporary

_NAME = "_lacscope_execution"


@dataclass
class Execution:
    """Where a model is in its plan.

    Args:
        n_places: the number of times that a block's residual hooks fire in one pass.
        parallel: several blocks read one stream somewhere in the plan.
        text: the plan as JSON, for the attributes of what is recorded.
        place: the firing that is under way, from 0; -1 between passes.
        idle: the block of this firing does not run.
    """

    n_places: int
    parallel: bool
    text: str
    place: int = -1
    idle: bool = False


def execution_of(model: Any) -> Execution | None:
    """Where the model is in its plan; None where it runs as it is."""
    return model.__dict__.get(_NAME)


def reordering_plan(model: Any, n_layers: int) -> str | None:
    """The plan that the model runs under, in words, where it does more than skip."""
    execution = execution_of(model)
    plan = {} if execution is None else json.loads(execution.text)
    return plan["plan"] if plan and plan["blocks"] != list(range(n_layers)) else None


@temporary
def executing(note: Note, model: Any, execution: Execution) -> None:
    """Have :func:`execution_of` find this. RuntimeError where the model runs under a plan already."""
    if _NAME in model.__dict__:
        raise RuntimeError(
            f"the model already runs under the plan {model.__dict__[_NAME].text}: plans do not nest. Leave that "
            "context first, or change the plan with the .change(plan) of what it yields."
        )
    note("plan", _end, model, execution)
    # Into __dict__: modules look at what is assigned to them.
    model.__dict__[_NAME] = execution


def _end(model: Any, execution: Execution) -> None:
    if model.__dict__.get(_NAME) is execution:
        del model.__dict__[_NAME]
