"""``lacscope analyze``: the analyses of depth and of layer importance, from the command line."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lacscope.analyze._passages import read_passages
from lacscope.cli._errors import in_a_line, is_users, keeping, quoting_nothing
from lacscope.cli._terminal import (
    NoText,
    bar_of,
    check_folder,
    counted,
    files_by_task,
    quiet_libraries,
    say,
    template_options,
)
from lacscope.guards._arguments import one_of
from lacscope.tasks._registry import task as task_named
from lacscope.traces._options import DTYPES

if TYPE_CHECKING:
    from lacscope.analyze._analysis import Analysis
    from lacscope.analyze._prompts import Prompts
    from lacscope.analyze._store import ResultStore

console = Console(stderr=True)


def analyze_command(
    model: Annotated[
        str, typer.Argument(help="smollm2-135m-instruct (the demo model), a hub id, a folder or a .gguf file.")
    ] = "",
    what: Annotated[
        list[str] | None,
        typer.Option(
            help="A name from --list, or a group: depth, importance, tokens, painters, plans, all. Repeatable."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder: each result as netCDF, its figure, and a JSON of what made it.")
    ] = Path("runs/analysis"),
    task: Annotated[
        list[str] | None,
        typer.Option(help="A benchmark whose questions are read, with their answers. Repeatable; default: --data's."),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="TASK=FILE: a local JSONL, CSV or Parquet file instead of the hub.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Instead of --task: a text file (plain or .gz) of long lines or paragraphs.")
    ] = None,
    chat_template_kwargs: Annotated[
        str | None, typer.Option(help="Options of the chat template, as JSON: '{\"enable_thinking\": false}'.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Prompts to read of each, a seeded sample.", min=1)] = 10,
    max_tokens: Annotated[
        int | None, typer.Option(help="Of a text, read no more than the first so many tokens.", min=8)
    ] = None,
    style: Annotated[
        str | None,
        typer.Option(help="Of the prompts of tasks that have it; default: each analysis' paper's, else plain."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample of prompts.", min=0)] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace results of other prompts, settings or versions in --out.")
    ] = False,
    no_text: NoText = False,
    listed: Annotated[bool, typer.Option("--list", help="List the analyses and leave.")] = False,
) -> None:
    """Measure what each layer does: depth efficiency, importance, and how far the measures agree.

    A result that is there already, of the same model, prompts and settings, is not made again. What was killed or cut
    goes on with the part that it stopped in.
    """
    if not model and not listed:
        raise ValueError("name a MODEL, or list the analyses with --list.")
    task = task or [one.split("=")[0] for one in data or () if text is None]
    if not listed:
        _check_prompts(task, text, data, max_tokens)
        check_folder(out)
        template = template_options(chat_template_kwargs)
        one_of("dtype", dtype, DTYPES)
        for name in task:
            task_named(name)
    with bar_of("Importing torch and TransformerLens", console):
        from lacscope.analyze._catalogue import catalogue, named
        from lacscope.analyze._prompts import task_prompts, text_prompts
        from lacscope.analyze._store import ResultStore
        from lacscope.models._facts import weights_digest
        from lacscope.models._loading import load_model
        from lacscope.models.adapters import adapt
    if listed:
        Console().print(_table(catalogue()))
        return
    asked = named(what or ["all"])
    by_name = [one for one in asked if one.name in (what or ())]
    for one in by_name:
        if text is not None and one.missing_in_text:
            raise ValueError(f"{one.name}: {one.missing_in_text}.")
    tasks = [task_named(name) for name in task]
    if style is not None and not any(style in one.styles for one in tasks):
        known = sorted({known for one in tasks for known in one.styles})
        raise ValueError(f"--style {style!r} is none of {', '.join(task) or 'a text'}; choose from {', '.join(known)}.")
    files = files_by_task("--data", data, [one.name for one in tasks])
    quiet_libraries()
    with bar_of(f"Loading {model}", console):
        loaded = load_model(model, dtype=dtype, device=device, hooks="full")
        weights = weights_digest(loaded)
    with quoting_nothing(any(one.private for one in tasks)):
        styles = dict.fromkeys(one.style if style is None else style for one in asked)
        if text is not None:
            by_style = dict.fromkeys(styles, text_prompts(loaded, text, limit=limit, max_tokens=max_tokens, seed=seed))
        else:
            by_style = {
                own: task_prompts(
                    loaded, task, data=files, limit=limit, seed=seed, style=own, chat_template_kwargs=template
                )
                for own in styles
            }
        read = {one.name: by_style[one.style if style is None else style] for one in asked}
        for one in by_name:
            one.check(loaded, read[one.name])
        lacking = {one.name: missing for one in asked if (missing := one.missing(loaded, read[one.name]))}
        for name, missing in lacking.items():
            say(console, f"{name}: left out, {missing}")
        folder = out / adapt(loaded).name.replace("/", "--")
        store = ResultStore(folder, withhold=no_text or any(one.private for one in read.values()))
        _Session(loaded, read, store, weights).make([one for one in asked if one.name not in lacking], force=force)


@dataclass
class _Session:
    """Analyses of one model, each of the prompts that it reads, made one after the other."""

    model: Any
    read: "dict[str, Prompts]"
    store: "ResultStore"
    weights: str
    made: list[str] = field(default_factory=list)

    def make(self, asked: "Sequence[Analysis]", *, force: bool) -> None:
        """Make each, or say why it is not made; what goes wrong in one does not end the others."""
        from lacscope.analyze._run import id_of

        keys = {one.name: id_of(one, self.read[one.name], self.weights) for one in asked}
        if not force:
            others = {name: self.store.in_its_place(name, key) for name, key in keys.items()}
            _refuse_to_replace({name: other for name, other in others.items() if other is not None}, self.store.folder)
        failed: dict[str, Exception] = {}
        with keeping(lambda: self._on_disk(len(asked))):
            for one in asked:
                try:
                    with quoting_nothing(self.read[one.name].private):
                        path, kept = self._make_one(one, keys[one.name])
                except OSError:
                    raise
                except Exception as error:
                    if len(asked) == 1:
                        raise
                    failed[one.name] = error
                    say(console, f"{one.name}: not made, {in_a_line(error)}")
                else:
                    self.made.append(one.name)
                    say(console, "  ", path, " (kept from before)" if kept else "")
        bugs = [error for error in failed.values() if not is_users(error)]
        if bugs:
            raise bugs[0]
        if failed:
            raise ValueError(f"{len(failed)} of {len(asked)} analyses were not made: {', '.join(failed)}. See above.")

    def _make_one(self, one: "Analysis", key: str) -> tuple[Path, bool]:
        """The figure's path, and whether the result was there already."""
        from lacscope.analyze._run import analyze
        from lacscope.analyze._write import write_figure_of

        kept = self.store.finished(one.name, key) is not None
        parts = len(self.store.parts(one.name, key))
        if parts and not kept:
            say(console, f"{one.name}: {counted(parts, 'part')} kept from before")
        prompts = self.read[one.name]
        with bar_of(f"{one.name}, {len(prompts)} prompts", console) as progress:
            result = analyze(self.model, one, prompts, self.store, weights=self.weights, progress=progress)
            return write_figure_of(one, result, self.store), kept

    def _on_disk(self, asked: int) -> str:
        parts = len(self.store.parts())
        begun = f" and {counted(parts, 'part')} of others" if parts else ""
        return f"{self.store.folder} has {len(self.made)} of {counted(asked, 'result')}{begun}. Go on with"


def _check_prompts(task: list[str] | None, text: Path | None, data: list[str] | None, max_tokens: int | None) -> None:
    """Refuse what cannot be read before a model is loaded."""
    if bool(task) == (text is not None):
        raise ValueError("give --task (benchmarks) or --text (a text file) to read, one of the two.")
    if text is None:
        if max_tokens is not None:
            raise ValueError("--max-tokens cuts a --text; questions are read whole, with their answers.")
        return
    if data:
        raise ValueError("--data names the file of a --task; a --text is the file itself.")
    if not text.is_file():
        raise FileNotFoundError(2, "there is no file", str(text))
    read_passages(text)


def _refuse_to_replace(others: dict[str, Any], folder: Path) -> None:
    """Before any work: each name has one place in the folder."""
    if not others:
        return
    name, other = next(iter(others.items()))
    more = f", and {len(others) - 1} more" if len(others) > 1 else ""
    raise FileExistsError(
        17,
        f"{name} stands there already, of {other.attrs.get('data') or 'no data'} (n = {other.attrs.get('n_samples')}), "
        f"made with other prompts, settings or versions{more}: give another --out, or --force to replace",
        str(folder),
    )


def _table(catalogue: Any) -> Table:
    table = Table("name", "group", "reads", "what it measures")
    for one in catalogue.values():
        table.add_row(one.name, one.group, one.needs, one.says)
    return table
