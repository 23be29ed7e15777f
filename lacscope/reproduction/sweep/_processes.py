"""Which share of a sweep this process has, as accelerate or torchrun launched it, or as the command line says."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from lacscope.reproduction.sweep._runner import Share


def _nothing_to_wait_for() -> None:
    return None


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work.

    Args:
        share: its shards.
        wait: a function that returns once every process has called it; where the processes do not know of one another
            (a SLURM array) it returns at once.
        device: the device that the launcher gave this process, or None.
        writes_report: True in one process of those launched together, and never in one of an array.
        speaks: whether this process shows its progress: one of those launched together, each of an array.
    """

    share: Share = field(default_factory=Share)
    wait: Callable[[], None] = _nothing_to_wait_for
    device: Any = None
    writes_report: bool = True
    speaks: bool = True


def launched_processes() -> Processes:
    """The processes of ``accelerate launch`` or ``torchrun``; alone, where neither launched this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from accelerate import PartialState

    # Shards take what they take, and one process may have many more to do: nobody waits in vain after 30 minutes.
    state = PartialState(timeout=timedelta(days=30))
    return Processes(
        Share(state.process_index, state.num_processes),
        state.wait_for_everyone,
        state.device,
        writes_report=state.is_main_process,
        speaks=state.is_main_process,
    )


def array_member(share: str) -> Processes:
    """One job of an array: ``"3/8"`` is the fourth of eight, counted from 0.

    Raises ValueError for what is not such a share.
    """
    rank, _, world = share.partition("/")
    if not (rank.isdigit() and world.isdigit()):
        raise ValueError(f"--share is K/N, as 0/8 for the first of eight jobs; got {share!r}.")
    return Processes(Share(int(rank), int(world)), writes_report=False)
