"""The command line. Torch is imported by the commands that run a model, never for --help or plotting."""

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lacscope.cli._analyze import analyze_command
from lacscope.cli._errors import EXIT_CODES, Terminated, interruptible, keeping, tell
from lacscope.cli._harness import lm_eval_command
from lacscope.cli._prompts_file import read_prompts_file
from lacscope.cli._reproduce import report, reproduce
from lacscope.cli._terminal import (
    Advancing,
    NoText,
    bar_of,
    check_folder,
    check_output,
    quiet_libraries,
    say,
    template_options,
)
from lacscope.guards._arguments import one_of
from lacscope.traces._lac import check_alpha
from lacscope.traces._options import DTYPES, check_options

app = typer.Typer(
    help="Which layers of a language model do the work: trace, detect and skip voids.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=EXIT_CODES,
)
app.command()(interruptible(reproduce))
app.command()(interruptible(report))
app.command("lm-eval")(interruptible(lm_eval_command))
app.command("analyze")(interruptible(analyze_command))
console = Console(stderr=True)


def main() -> None:
    """Entry point: what stops a command is told in a line, and by the exit code, not by a traceback."""
    words = [word for word in sys.argv[1:] if word != "--traceback"]
    with _terminated_as_interrupted():
        try:
            app(words, prog_name="lacscope")
        except KeyboardInterrupt:
            console.print("interrupted. Nothing was written.")
            sys.exit(130)
        except Exception as error:
            sys.exit(tell(error, console, with_traceback=len(words) < len(sys.argv[1:])))


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Inside, SIGTERM ends a command as Ctrl-C does: with what is on disk, and nothing half written."""

    def terminate(number: int, frame: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"lacscope {version('lacscope')}")
        raise typer.Exit
    return asked


@app.callback()
def _global_options(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Where a command fails, also show the way to it through the code.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and leave.")
    ] = False,
) -> None:
    """Options of every command."""


def step(what: str) -> Advancing:
    """A progress bar for one step, on this command line's console."""
    return bar_of(what, console)


@app.command()
@interruptible
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the trace, the figures and report.md.")] = Path("runs/demo"),
    prompts: Annotated[int, typer.Option(help="How many questions of the pocket set.", min=2, max=96)] = 24,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate for each, at most.", min=2)] = 24,
) -> None:
    """Trace the demo model on the packaged questions; write the trace, four figures and a report."""
    check_folder(out)
    with keeping(lambda: f"What {out} holds is whole. Begin again with"):
        with step("Importing torch and TransformerLens"):
            from lacscope.cli._demo import run_demo
        quiet_libraries()
        report = run_demo(out, step, n_prompts=prompts, max_new_tokens=max_new_tokens)
    say(console, "Done: ", report)


@app.command()
@interruptible
def trace(
    model: Annotated[
        str, typer.Argument(help="smollm2-135m-instruct (the demo model), a hub id, a folder or a .gguf file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Trace file to write (netCDF).")],
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may be given several times.")] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(help='Text: one prompt a line. JSONL: {"prompt": "..."} or {"messages": [...]} a line. UTF-8.'),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put each prompt into the model's chat template.")] = False,
    chat_template_kwargs: Annotated[
        str | None, typer.Option(help="Options of the chat template, as JSON: '{\"enable_thinking\": false}'.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Scale of the void threshold, >= 0.")] = 0.8,
    effect: Annotated[
        str,
        typer.Option(
            help="[b]observe[/]: record only. [b]readout[/]: read the answer after the last active layer. "
            "[b]bypass[/]: take the voids out of the pass."
        ),
    ] = "observe",
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate; 0 reads the prompts only.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option(help="Prompts per batch.", min=1)] = 8,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling, in (0, 1].")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Seed for sampling; drawn and stored without one.")] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            help="Also record: attn_out_norm, mlp_out_norm, cos_pre_post, threshold, surprisal, rank, entropy. May be "
            "given several times."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
    no_text: NoText = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
) -> None:
    """Read prompts, generate, and write every layer's change of norm for every token to a file."""
    # Everything that can be wrong with the words is found before torch is imported.
    inputs = _read_prompts(prompt, prompts_file, chat)
    check_output(out, force)
    template = template_options(chat_template_kwargs)
    one_of("dtype", dtype, DTYPES)
    check_alpha(alpha)
    check_options(
        effect=effect,
        measures=measure or (),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
    )
    with step("Importing torch and TransformerLens"):
        from lacscope import L2AdaptiveComputation, load_model, save_trace
        from lacscope import trace as run_trace
        from lacscope.guards._withheld import without_text
        from lacscope.trace_analyses._tokens import token_classes
    quiet_libraries()
    needs_sublayers = bool({"attn_out_norm", "mlp_out_norm"} & set(measure or ()))
    with step(f"Loading {model}"):
        loaded = load_model(model, device=device, dtype=dtype, hooks="full" if needs_sublayers else "residual")
    with step(f"Tracing {len(inputs)} prompts") as progress:
        traced = run_trace(
            loaded,
            inputs,
            rule=L2AdaptiveComputation(alpha),
            effect=effect,  # type: ignore[arg-type]
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            measures=measure or (),
            chat_template_kwargs=template,
            progress=progress,
        )
    with keeping(lambda: "Nothing was written. Begin again with"):
        save_trace(without_text(traced.assign(token_class=token_classes(traced))) if no_text else traced, out)
    _summarise(traced)
    say(console, "Wrote ", out, f". Draw it with: {shlex.join(['lacscope', 'plot', str(out)])}")


@app.command()
@interruptible
def plot(
    file: Annotated[Path, typer.Argument(help="A trace file.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the figures (default: beside the file).")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Scale of the void threshold.")] = 0.8,
    sample: Annotated[int, typer.Option(help="Which sample the void map shows.", min=0)] = 0,
    style: Annotated[str, typer.Option(help="Norm curves: quartiles, or paper (plain means).")] = "quartiles",
    dpi: Annotated[int, typer.Option(help="Resolution of the PNG files.", min=30)] = 150,
    no_text: NoText = False,
) -> None:
    """Draw the four standard figures of a trace: norms, usage, usage against alpha, void map."""
    from lacscope import open_trace
    from lacscope.guards._withheld import without_text
    from lacscope.plots._saving import save_figures

    traced = open_trace(file)
    folder = out or file.with_name(f"{file.stem}_figures")
    check_folder(folder)
    with keeping(lambda: f"What {folder} holds is whole. Go on with"), step(f"Drawing {file.name}"):
        shown = without_text(traced) if no_text else traced
        paths = save_figures(shown, folder, alpha=alpha, sample=sample, style=style, dpi=dpi)  # type: ignore[arg-type]
    for path in paths.values():
        say(console, "Wrote ", path)


def _read_prompts(prompt: list[str] | None, file: Path | None, chat: bool) -> list[Any]:
    if not prompt and file is None:
        raise ValueError("no prompts: give --prompt TEXT (once or more) or --prompts-file FILE.")
    found: list[Any] = list(prompt or ())
    if "" in found:
        raise ValueError(f"prompt {found.index('')} is empty. Give at least one character.")
    if file is not None:
        found += read_prompts_file(file)
    if chat:
        found = [[{"role": "user", "content": p}] if isinstance(p, str) else p for p in found]
    if len({isinstance(p, str) for p in found}) > 1:
        raise ValueError(
            "some prompts are text and some are chats: give one kind, or --chat to make all of them chats."
        )
    return found


def _summarise(traced: Any) -> None:
    from lacscope import layer_usage

    usage = layer_usage(traced).mean("layer")
    for phase in ("prefill", "decode"):
        n = int(usage["n"].sel(phase=phase))
        share = f"usage {100 * float(usage.sel(phase=phase)):.1f} %" if n else "no tokens"
        console.print(f"{phase}: {n} tokens read, {share}", highlight=False)
