"""The command line. Torch is imported by the commands that run a model, never for --help or plotting."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lacscope.arguments import one_of
from lacscope.cli_analyze import analyze_command
from lacscope.cli_harness import lm_eval_command
from lacscope.cli_reproduce import report, reproduce
from lacscope.options import DTYPES, check_options
from lacscope.prompts_file import read_prompts_file
from lacscope.terminal import Step, bar_of, check_output, quiet_libraries, template_options
from lacscope.thresholds import check_alpha

app = typer.Typer(
    help="Which layers of a language model do the work: trace, detect and skip voids.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(reproduce)
app.command()(report)
app.command("lm-eval")(lm_eval_command)
app.command("analyze")(analyze_command)
console = Console(stderr=True)


def main() -> None:
    """Entry point: what the user can mend is one line of text and exit code 2, not a traceback."""
    try:
        app(prog_name="lacscope")
    except KeyboardInterrupt:
        console.print("interrupted. No file was left half written; `lacscope reproduce` goes on where it stopped.")
        sys.exit(130)
    except (ValueError, TypeError, OSError, RuntimeError, FloatingPointError) as error:
        if isinstance(error, RuntimeError) and type(error) is RuntimeError:
            raise
        console.print(f"[bold red]error:[/] {_plain(error)}", highlight=False)
        sys.exit(2)


def _plain(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return text.replace("[", "\\[")


def step(what: str) -> Step:
    """A progress bar for one step, on this command line's console."""
    return bar_of(what, console)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the trace, the figures and report.md.")] = Path("runs/demo"),
    prompts: Annotated[int, typer.Option(help="How many questions of the pocket set.", min=2, max=96)] = 24,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate for each, at most.", min=2)] = 24,
) -> None:
    """Trace the demo model on the packaged questions; write the trace, four figures and a report."""
    with step("Importing torch and TransformerLens"):
        from lacscope.demo import run_demo
    quiet_libraries()
    report = run_demo(out, step, n_prompts=prompts, max_new_tokens=max_new_tokens)
    console.print(f"Done: [bold]{report}[/]")


@app.command()
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
    save_trace(traced, out)
    _summarise(traced)
    console.print(f"Wrote [bold]{out}[/]. Draw it with: lacscope plot {out}")


@app.command()
def plot(
    file: Annotated[Path, typer.Argument(help="A trace file.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the figures (default: beside the file).")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Scale of the void threshold.")] = 0.8,
    sample: Annotated[int, typer.Option(help="Which sample the void map shows.", min=0)] = 0,
    style: Annotated[str, typer.Option(help="Norm curves: quartiles, or paper (plain means).")] = "quartiles",
    dpi: Annotated[int, typer.Option(help="Resolution of the PNG files.", min=30)] = 150,
) -> None:
    """Draw the four standard figures of a trace: norms, usage, usage against alpha, void map."""
    from lacscope import open_trace
    from lacscope.figures import save_figures

    traced = open_trace(file)
    folder = out or file.with_name(f"{file.stem}_figures")
    with step(f"Drawing {file.name}"):
        paths = save_figures(traced, folder, alpha=alpha, sample=sample, style=style, dpi=dpi)  # type: ignore[arg-type]
    for path in paths.values():
        console.print(f"Wrote [bold]{path}[/]")


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
