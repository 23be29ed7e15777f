"""LAC beside its controls and the full model: points with intervals, one row each."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lacscope.plots._continuous import OUTCOMES, Outcome, outcome_of
from lacscope.plots._looks import EFFECT_LOOKS, FULL_COLOR
from lacscope.plots._score_panels import (
    SUMMARY_MAKER,
    draw_intervals,
    require_columns,
    require_one,
    take_grid,
)
from lacscope.plots._style import SMALL, counted, title_own_figure

ControlledEffect = Literal["readout", "bypass"]
RULE_WORDS = {
    "full": "full model",
    "lac": "LAC",
    "permuted_exits": "LAC's exits, permuted over tokens",
    "constant_exit": "one constant exit",
    "random_layers": "random layers, same count per token",
    "random_tokens": "random tokens, same rate per layer",
    "lowest_usage": "lowest-usage layers",
    "last_layers": "last layers",
    "norm_null": "norm-only null",
}
_COLUMNS = ("model", "task", "style", "scoring", "effect", "rule", "alpha", "protect", "n", "seeds", "identical", "why")
_IDENTICAL = "identical to the full model"
_IDENTICAL_COLOR = "0.45"


def plot_controls(
    summary: pd.DataFrame, axes: Sequence[Axes] | np.ndarray | None = None, *, outcome: Outcome | None = None
) -> np.ndarray:
    """LAC, its controls and the full model, best accuracy on top: accuracy (left), a continuous outcome (right).

    Args:
        summary: the table of ``lacscope.reproduction.scores.summarise``, of the samples that the controls were run on:
            the rows of one model, task, style and scoring. Each effect is shown at the one alpha at which it has
            controls.
        axes: (number of effects with controls) x 2 Axes; default: a new figure.
        outcome: ``"margin"`` or ``"target_logp"``; default: the margin, where the task has one.

    Returns:
        Array of the Axes (effects, 2), ``readout`` first. A condition identical to the full model is named as
        such in grey, without a point. The line and the band are the full model's, with its 95 % interval.

    Raises:
        ValueError: a missing column, several models, tasks, styles or scorings, no controls, controls at
            several alphas under one effect, or a wrong number of axes.

    >>> from lacscope.reproduction.scores._scores import summarise
    >>> from lacscope.testing import synthetic_scores
    >>> summary = summarise(synthetic_scores(8), draws=50)
    >>> plot_controls(summary[summary["scoring"] == "choice"]).shape
    (2, 2)
    """
    require_columns(summary, _COLUMNS, "summary", SUMMARY_MAKER)
    require_one(summary, ("model", "task", "style", "scoring"), "summary")
    chosen = outcome_of(summary, outcome)
    names = ("accuracy", chosen)
    require_columns(
        summary, [f"{name}{end}" for name in names for end in ("", "_low", "_high")], "summary", SUMMARY_MAKER
    )
    groups = [group for effect in EFFECT_LOOKS if len(group := _group(summary, effect))]
    if not groups:
        raise ValueError(
            f"'summary' has no controls under {' or '.join(EFFECT_LOOKS)}: its rules are "
            f"{', '.join(map(str, pd.unique(summary['rule'])))}. Give the rows of the controls' part of the run."
        )
    heights = [len(group) + 1.6 for group in groups]
    panels = take_grid(axes, heights, len(names), (10.5, 0.9 + 0.38 * sum(heights)))
    for row, group in zip(panels, groups, strict=True):
        for ax, name in zip(row, names, strict=True):
            _draw(ax, group, name)
        row[1].set_yticklabels([])
        effect = str(group.loc[group["rule"] == "lac", "effect"].iloc[0])
        alpha = float(group.loc[group["rule"] == "lac", "alpha"].iloc[0])
        warned = "" if group["n"].nunique() == 1 else " (numbers of samples differ: not all are the same samples)"
        row[0].set_title(f"{effect} at alpha = {alpha:g}{warned}", loc="left", fontsize="medium", parse_math=False)
        row[0].set_xlabel("accuracy\n(share, 95 % intervals)")
        row[1].set_xlabel(OUTCOMES[chosen])
    for column in panels.T:
        ends = [ax.get_xlim() for ax in column]
        for ax in column:
            ax.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))
            ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
    first = summary.iloc[0]
    title = f"{first['model']}, {first['task']}: LAC and its controls ({first['scoring']})"
    title_own_figure(panels.ravel(), axes, title)
    return panels


def _group(summary: pd.DataFrame, effect: str) -> pd.DataFrame:
    """The full model, LAC and the controls of one effect, worst first; empty where it has no controls."""
    here = summary[summary["effect"] == effect]
    controls = here[~here["rule"].isin(("lac", "full"))]
    if controls.empty:
        return controls
    require_one(controls, ("alpha",), f"summary (controls under {effect})")
    lac = here[(here["rule"] == "lac") & (here["alpha"] == controls["alpha"].iloc[0])]
    full = summary[summary["effect"] == "none"]
    if lac.empty or full.empty:
        missing = "LAC" if lac.empty else "the full model"
        raise ValueError(
            f"'summary' has controls under {effect} at alpha {controls['alpha'].iloc[0]:g} but no row of {missing} "
            "beside them. Give both, of the same samples."
        )
    together = pd.concat([full, lac, controls])
    return together.sort_values(["identical", "accuracy"], ascending=[False, True], kind="stable")


def _draw(ax: Axes, group: pd.DataFrame, name: str) -> None:
    full = group[group["rule"] == "full"].iloc[0]
    ax.axvspan(full[f"{name}_low"], full[f"{name}_high"], color=FULL_COLOR, alpha=0.14, linewidth=0)
    ax.axvline(full[name], color=FULL_COLOR, linewidth=1.0)
    for height, (_, row) in enumerate(group.iterrows()):
        if row["identical"]:
            words, place = f"{_IDENTICAL} {row['why']}", ax.get_yaxis_transform()
            ax.text(0.02, height, words, transform=place, color=_IDENTICAL_COLOR, fontsize=SMALL, va="center")
        else:
            draw_intervals(ax, np.array([height]), group.iloc[[height]], name, across=True, **_look(row))
    ax.set_ylim(-0.7, len(group) - 0.3)
    ax.set_yticks(range(len(group)), [_label(row) for _, row in group.iterrows()], fontsize=SMALL)
    for tick, (_, row) in zip(ax.get_yticklabels(), group.iterrows(), strict=True):
        tick.set(fontweight="bold" if row["rule"] == "lac" else "normal")
        tick.set_color(_IDENTICAL_COLOR if row["identical"] else "black")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")


def _look(row: pd.Series) -> dict[str, object]:
    if row["rule"] == "full":
        return {"fmt": "s", "color": FULL_COLOR}
    look = EFFECT_LOOKS[str(row["effect"])]
    if row["rule"] == "lac":
        return {"fmt": look.marker, "color": look.color, "markersize": 8, "elinewidth": 2.0}
    return {"fmt": "o", "color": look.color, "markerfacecolor": "white"}


def _label(row: pd.Series) -> str:
    words = RULE_WORDS.get(str(row["rule"]), str(row["rule"]))
    protected = "first and last layer kept, " if row["protect"] else ""
    seeds = f", {counted(int(row['seeds']), 'seeds').removeprefix('n = ')}" if row["seeds"] > 1 else ""
    return f"{words}\n{protected}{counted(int(row['n']), 'samples')}{seeds}"
