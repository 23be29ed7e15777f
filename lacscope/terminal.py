"""What the commands share: files refused in time, and one progress bar at a time."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Step = AbstractContextManager[Callable[[int, int], None]]


def check_output(out: Path, force: bool) -> None:
    """Refuse before the model is loaded, not after an hour's work."""
    if out.is_dir():
        raise IsADirectoryError(21, "--out names a folder; give the name of a file", str(out))
    if out.exists() and not force:
        raise FileExistsError(17, "the output file exists; pass --force to replace it", str(out))
    out.parent.mkdir(parents=True, exist_ok=True)


def files_by_task(option: str, given: list[str] | None, tasks: Sequence[str]) -> dict[str, Path]:
    """What was given as TASK=FILE, or as FILE alone where there is one task. Raises ValueError for anything else."""
    found = {}
    for one in given or ():
        name, equals, file = one.partition("=")
        if not equals and len(tasks) == 1:
            name, file = tasks[0], one
        if name not in tasks or not file:
            raise ValueError(f"{option} is TASK=FILE with a task of this run ({', '.join(tasks)}); got {one!r}.")
        found[name] = Path(file).expanduser()
    return found


def template_options(text: str | None) -> dict[str, Any]:
    """Options of a chat template, written as a JSON object. Raises ValueError for anything else."""
    if text is None:
        return {}
    with suppress(json.JSONDecodeError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    raise ValueError(
        f"--chat-template-kwargs is a JSON object, such as '{{\"enable_thinking\": false}}'; got {text!r:.80}."
    )


def quiet_libraries() -> None:
    """One progress bar at a time: ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


@contextmanager
def bar_of(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for one step; it pulses until the step says how far it is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield update
        finished = progress.tasks[0]
        if finished.total is None:
            progress.update(task, completed=1, total=1)
