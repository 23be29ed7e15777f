"""Every task, by name: those that ship, a script's, and those of installed packages."""

from lacscope.guards._registry import Registry
from lacscope.tasks._arc import Arc
from lacscope.tasks._base import HubSource, Task
from lacscope.tasks._boolq import BoolQ
from lacscope.tasks._gpqa import Gpqa
from lacscope.tasks._gsm8k import Gsm8k
from lacscope.tasks._hellaswag import HellaSwag
from lacscope.tasks._lambada import Lambada
from lacscope.tasks._mmlu import Mmlu
from lacscope.tasks._pocket_tasks import PocketBoolean, PocketOptions
from lacscope.tasks._twohop import TwoHop
from lacscope.tasks._winogrande import WinoGrande

_ALL: tuple[Task, ...] = (
    BoolQ(),
    Mmlu(),
    Gpqa(),
    Lambada(),
    Gsm8k(),
    Arc("arc_easy", HubSource("allenai/ai2_arc", "ARC-Easy", "test")),
    Arc("arc_challenge", HubSource("allenai/ai2_arc", "ARC-Challenge", "test")),
    HellaSwag(),
    WinoGrande(),
    TwoHop(),
    PocketBoolean(),
    PocketOptions(),
)
TASKS: Registry[Task] = Registry("task", lambda: _ALL, name_of=lambda each: each.name)


def register(task: Task) -> Task:
    """Make a task of yours known by its name, to ``--task`` of every command and to the reports.

    The command line meets it where an installed package registers it: the package's entry point of the group
    ``lacscope`` names the module that does. A task registered again, as by a notebook's cell, replaces the former.

    Args:
        task: an object with the members of :class:`Task`.

    Raises:
        ValueError: a member is missing, or the name is taken or cannot be typed.
    """
    members = [name for name in vars(Task) if not name.startswith("_")]
    missing = [name for name in members if not hasattr(task, name)]
    if missing or isinstance(task, type):
        lacks = f"it has no {', '.join(missing)}" if missing else "it is a class; register an object of it"
        raise ValueError(f"{task!r:.80} is no task: {lacks}.")
    return TASKS.register(task)


def task(name: str) -> Task:
    """The task of this name.

    Raises ValueError for a name that is not in ``TASKS``, listing those that are.

    >>> task("boolq").chance
    0.5
    """
    return TASKS.named(name)
