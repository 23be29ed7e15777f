"""Continuous outcomes against alpha: the distance to the full model, and what the right answer is given."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import SymmetricalLogLocator

from lacscope.plots._looks import EFFECT_LOOKS, FULL_COLOR
from lacscope.plots._score_panels import (
    ALPHA_LABEL,
    SUMMARY_MAKER,
    alphas_of,
    dodged,
    draw_intervals,
    full_rows,
    label_alphas,
    lac_rows,
    require_columns,
    require_one,
    sample_count,
    take_grid,
)
from lacscope.plots._style import Handle, legend_above, note

Outcome = Literal["margin", "target_logp"]
OUTCOMES: dict[str, str] = {
    "margin": "median margin of the right choice\n(nats, 95 % intervals)",
    "target_logp": "mean log-prob. of the right answer\n(nats per token, 95 % intervals)",
}
_KL = "median KL(full model || skipped),\nnext token (nats, 95 %; log beyond {linear:g})"
_LEAST_KL = 1e-4  # nats; rounding alone makes about this
_COLUMNS = ("model", "task", "style", "scoring", "effect", "rule", "alpha", "protect", "n", "kl", "kl_low", "kl_high")


def plot_continuous_by_alpha(
    summary: pd.DataFrame, axes: Sequence[Axes] | np.ndarray | None = None, *, outcome: Outcome | None = None
) -> np.ndarray:
    """KL to the full model (top) and the margin or log-probability of the right answer (below), against alpha.

    Args:
        summary: the table of ``lacscope.reproduction.scores.summarise``, the rows of one task and style, of one model
            or more. Rows scored by choice log-probability are drawn; rows of controls are left out.
        axes: 2 x (number of models) Axes; default: a new figure.
        outcome: ``"margin"`` or ``"target_logp"``; default: the margin, where the task has one.

    Returns:
        Array of the Axes (2, models). The upper scale is linear near 0 and logarithmic further out, as its label
        says: 0 is the full model's own value. Below, the band is the full model with its 95 % interval.

    Raises:
        ValueError: a missing column, several tasks or styles, no row of LAC, an unknown outcome, or a wrong number of
            axes.

    >>> from lacscope.reproduction.scores._scores import summarise
    >>> from lacscope.testing import synthetic_scores
    >>> plot_continuous_by_alpha(summarise(synthetic_scores(8), draws=50)).shape
    (2, 1)
    """
    require_columns(summary, _COLUMNS, "summary", SUMMARY_MAKER)
    require_one(summary, ("task", "style"), "summary")
    chosen = outcome_of(summary, outcome)
    require_columns(summary, (chosen, f"{chosen}_low", f"{chosen}_high"), "summary", SUMMARY_MAKER)
    models = [str(model) for model in pd.unique(summary["model"])]
    panels = take_grid(axes, (1.0, 1.0), len(models), (4.4 * len(models) + 0.8, 6.6))
    lac = summary[(summary["rule"] == "lac") & (summary["scoring"] == "choice")]
    every = alphas_of(summary)
    for column, model in enumerate(models):
        upper, lower = panels[:, column]
        alphas = alphas_of(summary[summary["model"] == model])
        legend_above(upper, _draw_effects(upper, summary, model, "kl", alphas), _title(summary, model))
        legend_above(lower, _draw_full(lower, summary, model, chosen), "")
        _draw_effects(lower, summary, model, chosen, alphas)
        _scale_kl(upper, lac["kl"].to_numpy(float), lac["kl_high"].to_numpy(float))
        lower.set_ylabel(OUTCOMES[chosen])
        for ax in (upper, lower):
            label_alphas(ax, alphas, every)
        lower.set_xlabel(ALPHA_LABEL)
    return panels


def outcome_of(summary: pd.DataFrame, outcome: str | None) -> str:
    """The outcome asked for, or the first that the table has numbers of; ValueError for an unknown one."""
    possible = get_args(Outcome)
    if outcome is None:
        return next((name for name in possible if name in summary and summary[name].notna().any()), possible[-1])
    if outcome not in possible:
        raise ValueError(f"outcome must be one of {', '.join(map(repr, possible))}, got {outcome!r}.")
    return outcome


def _title(summary: pd.DataFrame, model: str) -> str:
    drawn = summary[(summary["model"] == model) & (summary["scoring"] == "choice")]
    drawn = drawn[drawn["rule"].isin(("lac", "full"))]
    task, style = summary["task"].iloc[0], summary["style"].iloc[0]
    count = sample_count(drawn) if len(drawn) else "not scored by log-probability"
    return f"{model}\n{task}, prompts “{style}”, {count}"


def _draw_effects(ax: Axes, summary: pd.DataFrame, model: str, name: str, alphas: np.ndarray) -> list[Handle]:
    handles: list[Handle] = []
    for (effect, look), side in zip(EFFECT_LOOKS.items(), (-1, 1), strict=True):
        rows = lac_rows(summary, model, "choice", effect)
        rows = rows[rows[name].notna()]
        if rows.empty:
            handles.append(note(f"{effect}: not run"))
            continue
        x = dodged(rows["alpha"].to_numpy(float), alphas, side)
        draw_intervals(ax, x, rows, name, fmt="none", ecolor=look.color)
        (line,) = ax.plot(
            x, rows[name], color=look.color, linestyle=look.linestyle, marker=look.marker, markersize=5, label=effect
        )
        handles.append(line)
    return handles


def _draw_full(ax: Axes, summary: pd.DataFrame, model: str, name: str) -> list[Handle]:
    handles: list[Handle] = []
    for _, row in full_rows(summary, model, "choice").iterrows():
        ax.axhspan(row[f"{name}_low"], row[f"{name}_high"], color=FULL_COLOR, alpha=0.16, linewidth=0)
        label = f"full model and band: {row[name]:.2f}"
        handles.append(ax.axhline(row[name], color=FULL_COLOR, linewidth=1.2, label=label))
    return handles


def _scale_kl(ax: Axes, drawn: np.ndarray, highest: np.ndarray) -> None:
    sizes = drawn[np.isfinite(drawn) & (drawn > 0)]
    # Linear below the smallest, so that 0, where an effect changes nothing, stays on the axis.
    linear = max(10.0 ** np.floor(np.log10(sizes.min())), _LEAST_KL) if sizes.size else _LEAST_KL
    ax.set_yscale("symlog", linthresh=linear, linscale=0.5)
    ax.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear))
    ax.yaxis.set_major_formatter("{x:g}")
    top = 1.6 * np.nanmax(np.append(highest, 2 * linear))
    ax.set_ylim(-0.25 * linear, top)
    ax.set_ylabel(_KL.format(linear=linear))
