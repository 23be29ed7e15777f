"""``lacscope lm-eval``: tasks of lm-evaluation-harness under a rule, as a table and a JSON file."""

import importlib.util
import json
import logging
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lacscope.cli._errors import is_users, keeping, quoting_nothing
from lacscope.cli._terminal import NoText, check_output, say, template_options
from lacscope.guards._shown import plain
from lacscope.tasks._registry import TASKS
from lacscope.traces._atomic import write_atomically
from lacscope.traces._schema import PHASES

_PACKAGE, _HARNESS = (f"{os.sep}{name}{os.sep}" for name in ("lacscope", "lm_eval"))


class HarnessError(RuntimeError):
    """What went wrong inside lm-eval."""


class MissingExtraError(RuntimeError):
    """A command whose optional packages are not installed; the message says how to get them."""


def lm_eval_command(
    model: Annotated[
        str, typer.Argument(help="smollm2-135m-instruct (the demo model), a hub id, a folder or a .gguf file.")
    ],
    tasks: Annotated[str, typer.Option(help="Tasks or groups of lm-eval, with commas between.")],
    alpha: Annotated[
        float | None, typer.Option(help="Scale of the void threshold, >= 0. Without it (or --layers): no rule.")
    ] = None,
    rule: Annotated[
        str | None, typer.Option(help="A rule that a package registered, instead of lac; --alpha goes to it.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Make these layers voids instead, for every token: '3;7;-1'.")
    ] = None,
    effect: Annotated[
        str,
        typer.Option(
            help="[b]observe[/]: the full model, with usage. [b]readout[/]: read the answer after the last active "
            "layer. [b]bypass[/]: take the voids out of the pass."
        ),
    ] = "observe",
    limit: Annotated[
        float | None, typer.Option(help="The first N documents of each task (a share if below 1).")
    ] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Examples before each question.", min=0)] = None,
    batch_size: Annotated[int, typer.Option(help="Requests per batch.", min=1)] = 1,
    chat: Annotated[bool, typer.Option("--chat", help="Put each prompt into the model's chat template.")] = False,
    chat_template_kwargs: Annotated[
        str | None, typer.Option(help="Options of the chat template, as JSON: '{\"enable_thinking\": false}'.")
    ] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with task files (YAML) of your own.")] = None,
    gen_kwargs: Annotated[
        str | None, typer.Option(help="Generation options: 'temperature=0.6,do_sample=True'.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for scores and usage.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
    no_text: NoText = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
) -> None:
    """Run lm-evaluation-harness tasks under a rule and an effect, with usage beside the scores."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingExtraError('lm-evaluation-harness is not installed: pip install "lacscope[lm-eval]"')
    if out is not None:
        check_output(out, force)
    if include_path is not None and not include_path.is_dir():
        raise NotADirectoryError(20, "--include-path is no folder", str(include_path))
    template = template_options(chat_template_kwargs)
    if template and not chat:
        raise ValueError("--chat-template-kwargs goes with --chat: without it no prompt is put into the chat template.")
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise ValueError(
            "--tasks names no task: give one or more with commas between, such as arc_easy,lambada_openai."
        )
    _quiet_libraries()
    from lacscope import load_model
    from lacscope.harness import evaluate, find_tasks, resolve_rule
    from lacscope.rules import check_effect

    # Everything that can be wrong with the words is found before the model is loaded.
    halting = resolve_rule(rule, alpha=alpha, layers=layers)
    check_effect(halting, effect)
    find_tasks(names, include_path)
    loaded = load_model(model, device=device, dtype=dtype, hooks="residual")
    private = any(is_private(name) for name in names) or names_private_data(include_path)
    with quoting_nothing(private or no_text), _told_apart(), keeping(lambda: "No scores are kept. Begin again with"):
        results = evaluate(
            loaded,
            names,
            rule=halting,
            effect=effect,  # type: ignore[arg-type]
            limit=int(limit) if limit is not None and limit >= 1 else limit,
            batch_size=batch_size,
            include_path=include_path,
            num_fewshot=num_fewshot,
            apply_chat_template=chat,
            chat_template_kwargs=template,
            gen_kwargs=gen_kwargs,
        )
    console = Console()
    console.print(score_table(results))
    for line in usage_lines(results):
        say(console, line)
    if out is not None:
        from lm_eval.utils import handle_non_serializable

        text = json.dumps(
            without_examples(results, of_all=no_text), indent=1, default=handle_non_serializable, ensure_ascii=False
        )
        write_atomically(out, (text + "\n").encode())
        say(console, "Wrote ", out)


@contextmanager
def _told_apart() -> Iterator[None]:
    """Inside, what goes wrong in lm-eval itself, as over a task file, is told as lm-eval's: neither a bug of ours."""
    try:
        yield
    except Exception as error:
        places = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        last = next((place for place in reversed(places) if _PACKAGE in place or _HARNESS in place), "")
        if _HARNESS in last and not is_users(error):
            raise HarnessError(
                f"lm-eval stopped with {type(error).__name__}: {str(error)[:300]}. It may be of a task's file, or of "
                "lm-eval's data; --traceback shows where."
            ) from error
        raise


def without_examples(results: Mapping[str, Any], *, of_all: bool = False) -> dict[str, Any]:
    """The results without texts of benchmarks: of private ones, or of all.

    lm-eval keeps no prompts here, but a task's configuration holds the solved examples that its file spells out.
    """
    configs = {}
    for name, config in results.get("configs", {}).items():
        shots = config.get("fewshot_config")
        hides = isinstance(shots, dict) and (of_all or is_private(name, config))
        configs[name] = {**config, "fewshot_config": {**shots, "samples": "withheld"}} if hides else config
    return {name: configs if name == "configs" else value for name, value in results.items() if name != "samples"}


def names_private_data(folder: Path | None) -> bool:
    """Whether a task file there reads one of the private data sets, under whatever name the task goes.

    Task files include one another, so the mention in any of them counts for all.
    """
    if folder is None:
        return False
    paths = [one.hub.path for one in TASKS.values() if one.private and one.hub is not None]
    texts = (file.read_text(encoding="utf-8", errors="replace") for file in folder.rglob("*.y*ml"))
    return any(path in text for text in texts for path in paths)


def is_private(name: str, config: Mapping[str, Any] | None = None) -> bool:
    """Whether lm-eval's task asks what one of lacscope's private tasks asks."""
    private = [one for one in TASKS.values() if one.private]
    named = any(one.name in name.split("_") for one in private)
    return named or (config or {}).get("dataset_path") in {one.hub.path for one in private if one.hub is not None}


def score_table(results: Mapping[str, Any]) -> Table:
    """Every metric of every task and group, with the usage of its requests."""
    about = results["lacscope"]
    rule = json.loads(about["rule"])
    described = "full model" if rule is None else f"{about['effect']}, {_rule_in_words(rule)}"
    table = Table(title=Text(plain(f"{about['model']}: {described}")))
    for heading in ("task", "metric"):
        table.add_column(heading)
    for heading in ("value", "stderr", *(f"usage {phase}" for phase in PHASES)):
        table.add_column(heading, justify="right")
    for task, metric, value, error in _scores(results):
        usage = about["usage"].get(task, {}).get("usage", {})
        shares = [_number(usage.get(phase), "{:.1%}") for phase in PHASES]
        table.add_row(Text(plain(task)), Text(plain(metric)), _number(value), _number(error), *shares)
    return table


def _scores(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    for task, found in {**results["results"], **results.get("groups", {})}.items():
        for key, value in found.items():
            metric, comma, filtered = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                name = metric if filtered == "none" else f"{metric} ({filtered})"
                yield task, name, value, found.get(f"{metric}_stderr,{filtered}")


def usage_lines(results: Mapping[str, Any]) -> list[str]:
    """Per task: tokens read, and how many scored positions can differ from the full model under ``readout``."""
    lines = []
    for task, usage in results["lacscope"]["usage"].items():
        read = ", ".join(f"{usage['tokens'][phase]} {phase}" for phase in PHASES)
        line = f"{task}: {read} tokens read; {usage['early']} of {usage['scored']} scored positions exit before the "
        line += "last block"
        if results["lacscope"]["effect"] == "readout" and not usage["early"]:
            line += " (identical to the full model by construction)"
        lines.append(line + ".")
    return lines


def _rule_in_words(rule: Mapping[str, Any]) -> str:
    fields = ", ".join(f"{name} {value}" for name, value in rule.items() if name not in ("name", "unit"))
    return f"{rule['name']} {fields}"


def _number(value: Any, form: str = "{:.4f}") -> str:
    # lm-eval writes "N/A" where a metric has no standard error.
    return "" if value is None or isinstance(value, str) else form.format(float(value))


def _quiet_libraries() -> None:
    """lm-eval warns of each default that it takes, and the libraries under it have bars of their own."""
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as transformers_logging

    disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
