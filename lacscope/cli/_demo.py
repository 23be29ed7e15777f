"""The demo: the pocket set through the demo model, traced, drawn and told in words."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr

from lacscope.cli._report import EffectRow, write_report
from lacscope.models._loading import DEMO_MODEL, load_model
from lacscope.plots._saving import save_figures
from lacscope.rules import Effect, L2AdaptiveComputation
from lacscope.tasks._pocket import PocketItem, load_pocket
from lacscope.trace_analyses._effects import next_token_shift
from lacscope.trace_analyses._usage import token_usage
from lacscope.traces._schema import save_trace
from lacscope.traces._voids import voids
from lacscope.tracing._run import trace

ALPHA = 0.8
EFFECT_RUNS: tuple[tuple[Effect, float], ...] = (("readout", 0.5), ("readout", 0.8), ("bypass", 0.5), ("bypass", 0.8))


@runtime_checkable
class Steps(Protocol):
    """How the demo tells what it is doing: one context per step, which may be given (done, total)."""

    def __call__(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]: ...


def demo_items(n: int) -> list[PocketItem]:
    """The first questions of the pocket set, yes/no and four-option ones in turn."""
    pairs = zip(load_pocket("yes_no"), load_pocket("multiple_choice"), strict=True)
    return [item for pair in pairs for item in pair][:n]


def run_demo(folder: Path, steps: Steps, *, n_prompts: int = 24, max_new_tokens: int = 24) -> Path:
    """Trace, draw and report; returns the report's path.

    Writes ``trace.nc``, four figures each with a JSON of what made it, and ``report.md``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chats = [item.chat() for item in demo_items(n_prompts)]
    with steps(f"Loading {DEMO_MODEL}"):
        model = load_model(DEMO_MODEL, hooks="residual")
    with steps(f"Tracing {len(chats)} prompts and their answers") as progress:
        full = trace(model, chats, max_new_tokens=max_new_tokens, logits="last", progress=progress)
    rows = []
    for effect, alpha in EFFECT_RUNS:
        with steps(f"The same prompts under {effect}, alpha {alpha}") as progress:
            changed = trace(
                model,
                chats,
                rule=L2AdaptiveComputation(alpha),
                effect=effect,
                logits="last",
                progress=progress,
            )
            answered = trace(
                model, chats[:1], rule=L2AdaptiveComputation(alpha), effect=effect, max_new_tokens=max_new_tokens
            )
        rows.append(_effect_row(full, changed, effect, alpha, answer_text(answered, model.tokenizer)))
    with steps("Writing the trace, the figures and the report"):
        full = full.drop_vars("logits")
        save_trace(full, folder / "trace.nc")
        figures = save_figures(full, folder, alpha=ALPHA)
        return write_report(
            full,
            voids(full, ALPHA),
            folder,
            figures,
            title=f"Voids in {DEMO_MODEL}",
            effects=rows,
            full_answer=answer_text(full, model.tokenizer),
        )


def _effect_row(full: xr.Dataset, changed: xr.Dataset, effect: str, alpha: float, answer: str) -> EffectRow:
    shift = next_token_shift(full, changed)
    last = changed["valid"].sum("token") - 1
    exits = token_usage(changed)["exit_depth"].isel(token=last)
    return EffectRow(
        effect,
        alpha,
        median_kl=float(shift["kl"].median()),
        same_token=float(shift["same_token"].mean()),
        n_early=int((exits < 1).sum()),
        n=full.sizes["sample"],
        answer=answer,
    )


def answer_text(traced: xr.Dataset, tokenizer: Any, sample: int = 0) -> str:
    """The generated answer of one sample, its last token (produced, never read) included."""
    produced: Sequence[int] = traced["next_token_id"].values[sample]
    return str(tokenizer.decode([int(i) for i in np.asarray(produced) if i >= 0], skip_special_tokens=True))
