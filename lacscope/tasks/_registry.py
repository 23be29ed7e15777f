"""Every task, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from lacscope.guards._arguments import did_you_mean
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
TASKS: Mapping[str, Task] = MappingProxyType({each.name: each for each in _ALL})


def task(name: str) -> Task:
    """The task of this name.

    Raises ValueError for a name that is not in ``TASKS``, listing those that are.

    >>> task("boolq").chance
    0.5
    """
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}; choose one of {', '.join(TASKS)}.{did_you_mean(name, TASKS)}")
    return TASKS[name]
