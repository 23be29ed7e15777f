"""What the commands share: files refused in time, and one progress bar at a time."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from lacscope.guards._shown import plain

NoText = Annotated[
    bool,
    typer.Option(
        "--no-text",
        help="Write no text and no token ids of prompts and answers: in files, on figures. Of a private benchmark "
        "(gpqa) none ever are.",
    ),
]
Advancing = AbstractContextManager[Callable[[int, int], None]]


def check_output(out: Path, force: bool) -> None:
    """Refuse before the model is loaded, not after an hour's work."""
    if out.is_dir():
        raise IsADirectoryError(21, "--out names a folder; give the name of a file", str(out))
    if out.exists() and not force:
        raise FileExistsError(17, "the output file exists; pass --force to replace it", str(out))
    check_folder(out.parent)


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before the model is loaded; it is made where it is not there."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(20, "a folder is needed here, and this is a file; give another --out", str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(13, "this folder cannot be written to; give another --out", str(folder))


def counted(n: int, unit: str) -> str:
    """``n`` with its unit: ``"1 part"``, ``"2 parts"``."""
    return f"{n} {unit}{'' if n == 1 else 's'}"


def say(console: Console, head: str, path: object = "", rest: str = "") -> None:
    """Print one line as it is, whatever is in it, the path in bold."""
    line = Text.assemble(plain(head), (plain(path), "bold"), plain(rest))
    console.print(line, highlight=False, soft_wrap=True)


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
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(plain(what), total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield update
        finished = progress.tasks[0]
        if finished.total is None:
            progress.update(task, completed=1, total=1)
