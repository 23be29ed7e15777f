"""``lacscope reproduce``: the paper's experiment, with its controls, from the command line."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lacscope.cli._errors import keeping, quoting_nothing
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
from lacscope.guards._shown import plain
from lacscope.traces._options import DTYPES

if TYPE_CHECKING:
    from lacscope.reproduction._run_file import Recipe
    from lacscope.reproduction._settings import ReproductionSettings
    from lacscope.reproduction.sweep._processes import Processes

console = Console(stderr=True)


def reproduce(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN.toml",
            help="A run as a file, such as the run.toml that each run writes. Options given beside it win.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="The demo model's name, a hub id, a folder or a .gguf file. May be given several times."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="boolq, mmlu, gpqa, lambada, gsm8k, arc_easy, ... May be given several times."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="[b]demo[/]: packaged questions, demo model, a few minutes. [b]paper[/]: the paper's settings."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for shards, scores, figures, table and report.md. [dim]\\[default: runs/reproduction][/]",
        ),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="TASK=FILE: a local JSONL, CSV or Parquet file instead of the hub.")
    ] = None,
    shots_data: Annotated[list[str] | None, typer.Option(help="TASK=FILE: the same for the solved examples.")] = None,
    alphas: Annotated[
        str | None, typer.Option(help="FIRST:LAST:STEP, as 0:1:0.1 (LAST included), or a list: 0,0.1,0.8.")
    ] = None,
    effect: Annotated[
        list[str] | None, typer.Option(help="readout, bypass, or both: --effect readout bypass.", metavar="EFFECT...")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Questions of each task, a seeded sample; all without.", min=1)
    ] = None,
    style: Annotated[str | None, typer.Option(help="Prompts: paper or plain.")] = None,
    shots: Annotated[int | None, typer.Option(help="Solved examples before each question.", min=0)] = None,
    generate_at: Annotated[str | None, typer.Option(help="Alphas to generate answers at; 'none' for none.")] = None,
    generate_limit: Annotated[int | None, typer.Option(help="On how many of the questions.", min=1)] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens to generate, at most.", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling, in (0, 1].")] = None,
    control_at: Annotated[
        list[str] | None, typer.Option(help="EFFECT=ALPHA[,ALPHA]: where the controls run; 'none' for no controls.")
    ] = None,
    control_limit: Annotated[int | None, typer.Option(help="On how many of the questions.", min=1)] = None,
    control_seeds: Annotated[int | None, typer.Option(help="Seeds of each random control.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sample of questions and of generation.", min=0)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of a forward pass.", min=1)] = None,
    shard_size: Annotated[int | None, typer.Option(help="Questions written at a time.", min=1)] = None,
    no_text: NoText = False,
    chat_template_kwargs: Annotated[
        str | None, typer.Option(help="Options of the chat template, as JSON: '{\"enable_thinking\": false}'.")
    ] = None,
    keep_traces: Annotated[bool, typer.Option("--keep-traces", help="Also keep the traces of all tokens.")] = False,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or float64.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
    device_map: Annotated[
        str | None, typer.Option(help="auto: spread a model that is larger than one device over all.")
    ] = None,
    share: Annotated[
        str | None, typer.Option(help="K/N: this job's share of an array of N jobs, counted from 0.")
    ] = None,
) -> None:
    """Reproduce "Void in Language Models": accuracy and usage against alpha, with baseline and controls.

    A run is named by options, a preset, or a file. Killed or cut, the same command goes on where it stopped. With
    `accelerate launch -m lacscope reproduce ...` the shards are spread over processes.
    """
    from lacscope.reproduction._run import IncompleteError
    from lacscope.reproduction._run import reproduce as run
    from lacscope.reproduction._run_file import keep_run
    from lacscope.reproduction._settings import load_questions
    from lacscope.tasks._registry import task as task_named

    base, more_effects = _base(words or [], preset)
    settings = _settings(
        base.settings,
        alphas=None if alphas is None else parse_alphas(alphas),
        effects=_effects(effect, more_effects),
        limit=limit,
        style=style,
        shots=shots,
        generate_alphas=None if generate_at is None else parse_alphas(generate_at),
        generate_limit=generate_limit,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        control_alphas=_control_alphas(control_at),
        control_limit=control_limit,
        control_seeds=None if control_seeds is None else tuple(range(control_seeds)),
        seed=seed,
        batch_size=batch_size,
        shard_size=shard_size,
        keep_text=False if no_text else None,
        keep_traces=keep_traces or None,
        chat_template_kwargs=template_options(chat_template_kwargs) or None,
    )
    tasks = tuple(task or base.tasks)
    recipe = replace(
        base,
        models=tuple(model or base.models),
        tasks=tasks,
        dtype=one_of("dtype", dtype or base.dtype, DTYPES),
        device=device or base.device,
        device_map=device_map or (None if device else base.device_map),
        out=out or base.out,
        data=_files("--data", data, base.data, tasks),
        shots_data=_files("--shots-data", shots_data, base.shots_data, tasks),
        settings=settings,
    )
    if not recipe.models or not tasks:
        raise ValueError("name a --model and a --task, or a --preset or a RUN.toml that has both.")
    asked = [task_named(name) for name in tasks]
    if preset == "paper" and not _fits(recipe):
        raise typer.Exit(3)
    out = recipe.out
    check_folder(out)
    with quoting_nothing(any(one.private for one in asked)):
        questions = {
            one.name: load_questions(one, settings, recipe.data.get(one.name), recipe.shots_data.get(one.name))
            for one in asked
        }
    with bar_of("Importing torch and TransformerLens", console):
        from lacscope.models._loading import load_model
        from lacscope.reproduction._studies import shards_on_disk
        from lacscope.reproduction.sweep._processes import array_member, launched_processes
    quiet_libraries()
    processes = launched_processes() if share is None else array_member(share)
    if processes.speaks:
        keep_run(recipe)
    incomplete: list[IncompleteError] = []
    with keeping(lambda: _on_disk(out, *shards_on_disk(out))):
        for name in recipe.models:
            with bar_of(f"Loading {name}", console):
                loaded = load_model(
                    name,
                    dtype=recipe.dtype,
                    hooks="residual",
                    device_map=recipe.device_map,
                    device=None if recipe.device_map is not None else recipe.device or processes.device,
                )
            for one in asked:
                try:
                    with quoting_nothing(one.private):
                        run(loaded, one, questions[one.name], settings, out, processes=processes, step=_step(processes))
                except IncompleteError as error:
                    incomplete.append(error)
            del loaded
        if incomplete:
            raise incomplete[0]
        if processes.writes_report:
            _write_report(out)


def _on_disk(out: Path, done: int, begun: int) -> str:
    return f"{out / 'runs'} has {done} of {counted(begun, 'shard')} of the parts begun. Go on with"


def _write_report(out: Path) -> None:
    from lacscope.reproduction._write import write_reproduction

    with bar_of("Figures, table and report", console):
        written = write_reproduction(out)
    say(console, "Done: ", written)


def report(
    folder: Annotated[Path, typer.Argument(help="The --out folder of `lacscope reproduce`.")],
) -> None:
    """Draw the figures and write the tables and the report of finished runs again, from their shards alone."""
    with keeping(lambda: f"All shards in {folder} are as they were. Begin again with"):
        _write_report(folder)


def parse_alphas(text: str) -> tuple[float, ...]:
    """``"0:1:0.1"`` (the last included) or ``"0,0.1,0.8"`` as numbers; ``"none"`` as no number.

    >>> parse_alphas("0:0.3:0.1")
    (0.0, 0.1, 0.2, 0.3)
    """
    if text == "none":
        return ()
    first = count = math.nan
    with suppress(ValueError, ZeroDivisionError):
        if ":" not in text:
            listed = tuple(float(part) for part in text.split(","))
            if all(math.isfinite(alpha) and alpha >= 0 for alpha in listed):
                return listed
        else:
            first, last, by = (float(part) for part in text.split(":"))
            count = (last - first) / by
    if not (math.isfinite(count) and first >= 0 and 0 <= count < 1000):
        raise ValueError(f"alphas are FIRST:LAST:STEP, as 0:1:0.1, or a list, as 0,0.1,0.8; got {text!r}.")
    # Rounded, so that the third of 0:1:0.1 is 0.3 and a run's id does not hang on 0.30000000000000004.
    return tuple(round(first + k * by, 10) for k in range(math.floor(count + 1e-9) + 1))


def _base(words: list[str], preset: str | None) -> tuple["Recipe", list[str]]:
    """What the options change: the file's run, the preset's, or that of the defaults; and the other words."""
    from lacscope.reproduction._presets import PRESETS
    from lacscope.reproduction._run_file import Recipe, read_run

    files = [word for word in words if word.endswith(".toml")]
    others = [word for word in words if word not in files]
    if len(files) > 1 or (files and preset is not None):
        raise ValueError(f"give one run: {', '.join(files)}{'' if preset is None else f' or --preset {preset}'}.")
    if files:
        return read_run(Path(files[0])), others
    return Recipe() if preset is None else PRESETS[one_of("preset", preset, PRESETS)], others


def _files(option: str, given: list[str] | None, base: Mapping[str, Path], tasks: Sequence[str]) -> Mapping[str, Path]:
    """The files of the tasks asked: those of the option, then those of the run that it changes."""
    kept = {name: file for name, file in base.items() if name in tasks}
    return {**kept, **files_by_task(option, given, tasks)}


def _effects(effect: list[str] | None, more: list[str] | None) -> tuple[str, ...] | None:
    if not effect:
        if more:
            raise ValueError(
                f"unexpected argument {more[0]!r}; a run's file ends in .toml. See lacscope reproduce --help."
            )
        return None
    return tuple(dict.fromkeys(name for given in [*effect, *(more or ())] for name in given.split(",")))


def _control_alphas(given: list[str] | None) -> dict[str, tuple[float, ...]] | None:
    if given is None:
        return None
    if given == ["none"]:
        return {}
    found = {}
    for one in given:
        effect, equals, alphas = one.partition("=")
        if not equals or effect not in ("readout", "bypass"):
            raise ValueError(f"--control-at is readout=ALPHA or bypass=ALPHA (or none), as bypass=0.1; got {one!r}.")
        found[effect] = parse_alphas(alphas)
    return found


def _settings(base: "ReproductionSettings", **given: Any) -> "ReproductionSettings":
    changed = {name: value for name, value in given.items() if value is not None}
    if "alphas" in changed and "control_alphas" not in changed:
        kept = {effect: tuple(a for a in at if a in changed["alphas"]) for effect, at in base.control_alphas.items()}
        changed["control_alphas"] = kept
        for effect, at in base.control_alphas.items():
            if kept[effect] != at:
                say(
                    console,
                    f"no controls for {effect}: they stand at alpha {', '.join(f'{a:g}' for a in at)}, which --alphas "
                    f"does not have. Add it, or name another with --control-at {effect}=ALPHA.",
                )
    return replace(base, **changed)


def _fits(recipe: "Recipe") -> bool:
    """Whether this machine can hold the models; where not, says what the run would need."""
    from lacscope.reproduction._presets import memory_here_gib, needs

    here = memory_here_gib()
    wanted = needs(recipe.models, recipe.tasks, recipe.settings, recipe.dtype)
    for need in wanted:
        say(
            console,
            f"{need.model}: about {need.memory_gib:.0f} GiB of memory in {recipe.dtype} ({here:.0f} GiB here) and "
            f"{need.petaflop:,.0f} PFLOP ({need.petaflop / 0.1 / 3600:,.1f} h at 100 TFLOP/s, "
            f"{need.petaflop / 1e-4 / 3600:,.0f} h at 0.1 TFLOP/s)",
        )
    too_large = [need.model for need in wanted if recipe.device_map is None and need.memory_gib > here]
    if too_large:
        say(
            console,
            f"Too large for this machine: {', '.join(too_large)}. Use a larger one, --device-map auto over several "
            "GPUs, or the paper's settings on a smaller model: --preset paper --model MODEL.",
        )
    return not too_large


def _step(processes: "Processes") -> Callable[[str], Any]:
    """Progress of a part with time left, samples per second and the accuracy so far."""
    from lacscope.reproduction.sweep._runner import Advance

    who = f" (process {processes.share.rank + 1} of {processes.share.world})" if processes.share.world > 1 else ""

    @contextmanager
    def step(what: str) -> Iterator[Callable[[Advance], None]]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=console, disable=not processes.speaks) as bar:
            task = bar.add_task(plain(what) + who, total=None, text="")
            began = time.monotonic()

            def update(now: Advance) -> None:
                rate = now.fresh / max(time.monotonic() - began, 1e-6)
                bar.update(task, total=now.total, completed=now.done, text=_progress_text(now, rate))

            yield update

    return step


def _progress_text(now: Any, rate: float) -> str:
    parts = [f"{now.done:.0f}/{now.total} samples"]
    if now.done > now.fresh:
        parts.append(f"{now.done - now.fresh:.0f} kept from before")
    if rate > 0:
        minutes, seconds = divmod(round((now.total - now.done) / rate), 60)
        parts += [f"{rate:.2f}/s", f"{minutes}:{seconds:02d} left"]
    if now.accuracy == now.accuracy:
        parts.append(f"full model {100 * now.accuracy:.1f} % right")
    return ", ".join(parts)
