"""``lacscope analyze``: the analyses of depth and of layer importance, from the command line."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lacscope.analyze.passages import read_passages
from lacscope.arguments import one_of
from lacscope.options import DTYPES
from lacscope.tasks.registry import task as task_named
from lacscope.terminal import bar_of, files_by_task, quiet_libraries, template_options

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
    seed: Annotated[int, typer.Option(help="Of the sample of prompts.", min=0)] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace results of other prompts, settings or versions in --out.")
    ] = False,
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
        template = template_options(chat_template_kwargs)
        one_of("dtype", dtype, DTYPES)
        for name in task:
            task_named(name)
    with bar_of("Importing torch and TransformerLens", console):
        from lacscope.adapters import adapt
        from lacscope.analyze.catalogue import CATALOGUE, named
        from lacscope.analyze.prompts import task_prompts, text_prompts
        from lacscope.analyze.run import analyze, id_of
        from lacscope.analyze.store import ResultStore
        from lacscope.analyze.write import write_figure_of
        from lacscope.checks import UnsupportedModelError
        from lacscope.facts import weights_digest
        from lacscope.models import load_model
    if listed:
        Console().print(_table(CATALOGUE))
        return
    asked = named(what or ["all"])
    by_name = [one for one in asked if one.name in (what or ())]
    for one in by_name:
        if text is not None and one.missing_in_text:
            raise ValueError(f"{one.name}: {one.missing_in_text}.")
    files = files_by_task("--data", data, [task_named(name).name for name in task])
    quiet_libraries()
    with bar_of(f"Loading {model}", console):
        loaded = load_model(model, dtype=dtype, device=device, hooks="full")
        weights = weights_digest(loaded)
    if text is not None:
        prompts = text_prompts(loaded, text, limit=limit, max_tokens=max_tokens, seed=seed)
    else:
        prompts = task_prompts(loaded, task, data=files, limit=limit, seed=seed, chat_template_kwargs=template)
    for one in by_name:
        one.check(loaded, prompts)
    lacking = {one.name: missing for one in asked if (missing := one.missing(loaded, prompts))}
    for name, missing in lacking.items():
        console.print(f"{name}: left out, {missing}", highlight=False)
    store = ResultStore(out / adapt(loaded).name.replace("/", "--"))
    asked = [one for one in asked if one.name not in lacking]
    if not force:
        others = {one.name: store.in_its_place(one.name, id_of(one, prompts, weights)) for one in asked}
        _refuse_to_replace({name: other for name, other in others.items() if other is not None}, store.folder)
    failed: list[str] = []
    for one in asked:
        try:
            with bar_of(f"{one.name}, {len(prompts)} prompts", console) as progress:
                result = analyze(loaded, one, prompts, store, weights=weights, progress=progress)
                path = write_figure_of(one, result, store)
        except (ValueError, UnsupportedModelError) as error:
            if len(asked) == 1:
                raise
            failed.append(one.name)
            console.print(f"{one.name}: not made, {error}", highlight=False, markup=False)
        else:
            console.print(f"  {path}", highlight=False)
    if failed:
        raise ValueError(f"{len(failed)} of {len(asked)} analyses were not made: {', '.join(failed)}. See above.")


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
