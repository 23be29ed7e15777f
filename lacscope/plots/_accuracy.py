"""Accuracy, unparseable share and usage against alpha: one column per model."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lacscope.plots._looks import EFFECT_LOOKS, FULL_COLOR, LOOKS
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
from lacscope.plots._style import SMALL, Handle, legend_above, note

_COLUMNS = (
    *(
        "model",
        "task",
        "style",
        "scoring",
        "effect",
        "rule",
        "alpha",
        "protect",
        "n",
        "unparseable",
        "identical",
        "why",
    ),
    *("accuracy", "accuracy_low", "accuracy_high", "usage_prefill", "usage_prefill_low", "usage_prefill_high"),
    *("usage_decode", "usage_decode_low", "usage_decode_high"),
)
_SCORINGS = {"choice": ("o", "-", -1), "generated": ("D", "--", 1)}
_SCORING_WORDS = {"choice": "choice log-probability", "generated": "generated answer"}
_REFERENCES = {"chance": (":", "chance"), "majority": ((0, (6, 1.5, 1, 1.5)), "majority class")}
_BY_CONSTRUCTION = {"readout": "no scored position exits early", "bypass": "no layer is skipped"}
_USAGE = {
    "usage_prefill": ("prefill", "PP", "PP: prompt processing (prefill)", ("choice", "generated")),
    "usage_decode": ("decode", "RG", "RG: response generation (decode)", ("generated", "choice")),
}
_USAGE_MARKERS = {"readout": {"prefill": "o", "decode": "s"}, "bypass": {"prefill": "^", "decode": "v"}}
_LEAST_SPAN = 0.2
_FULL_SHADE = {"choice": 0.16, "generated": 0.09}
_HEIGHTS = (2.3, 2.3, 0.8, 2.1)


def plot_accuracy_by_alpha(
    summary: pd.DataFrame,
    references: Mapping[str, Mapping[str, float]],
    axes: Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Accuracy under ``readout`` and under ``bypass``, the unparseable share, and usage, against alpha.

    Args:
        summary: the table of ``lacscope.reproduction.scores.summarise``, the rows of one task and style, of one model
            or more. Rows of controls are left out; accuracy and usage are shares in [0, 1] with 95 % intervals.
        references: the reference lines by model, as ``lacscope.reproduction.scores._scores.reference_lines`` gives
            them: ``chance`` and ``majority`` are drawn, where finite. The full model's line comes from ``summary``.
        axes: 4 x (number of models) Axes; default: a new figure.

    Returns:
        Array of the Axes (4, models). Hollow markers stand where a condition is identical to the full model, with the
        reason in the legend. A scoring that was run at some of the alphas only is drawn as points without a line.

    Raises:
        ValueError: a missing column, several tasks or styles, no row of LAC, or a wrong number of axes.

    >>> from lacscope.reproduction.scores._scores import summarise
    >>> from lacscope.testing import synthetic_scores
    >>> summary = summarise(synthetic_scores(8), draws=50)
    >>> plot_accuracy_by_alpha(summary, {"synthetic": {"chance": 0.5}}).shape
    (4, 1)
    """
    require_columns(summary, _COLUMNS, "summary", SUMMARY_MAKER)
    require_one(summary, ("task", "style"), "summary")
    models = [str(model) for model in pd.unique(summary["model"])]
    panels = take_grid(axes, _HEIGHTS, len(models), (4.6 * len(models) + 0.8, 11.0))
    every = alphas_of(summary)
    limits = _accuracy_limits(
        summary, [lines[name] for lines in references.values() for name in _REFERENCES if name in lines]
    )
    for column, model in enumerate(models):
        alphas = alphas_of(summary[summary["model"] == model])
        readout, bypass, strip, usage = panels[:, column]
        _draw_accuracy(readout, summary, model, "readout", alphas, references.get(model, {}), explain=True)
        _draw_accuracy(bypass, summary, model, "bypass", alphas, references.get(model, {}), explain=False)
        _draw_unparseable(strip, summary, model, alphas)
        _draw_usage(usage, summary, model, alphas, spell_out=column == 0)
        for ax in panels[:, column]:
            label_alphas(ax, alphas, every)
        readout.set_ylim(limits)
        bypass.set_ylim(limits)
        usage.set_xlabel(ALPHA_LABEL)
    return panels


def _accuracy_limits(summary: pd.DataFrame, references: Sequence[float]) -> tuple[float, float]:
    shown = summary[(summary["rule"].isin(("lac", "full"))) & (summary["effect"] != "observe")]
    drawn = np.append(shown[["accuracy", "accuracy_low", "accuracy_high"]].to_numpy(float).ravel(), references)
    low, high = np.nanmin(drawn), np.nanmax(drawn)
    spare = max(0.03, (_LEAST_SPAN - (high - low)) / 2)
    return max(-0.02, float(low - spare)), min(1.02, float(high + spare))


def _title(summary: pd.DataFrame, model: str) -> str:
    task, style = summary["task"].iloc[0], summary["style"].iloc[0]
    drawn = summary[(summary["model"] == model) & summary["rule"].isin(("lac", "full"))]
    by_scoring = {scoring: drawn[drawn["scoring"] == scoring] for scoring in _SCORINGS}
    counts = [f"{sample_count(rows)} ({scoring})" for scoring, rows in by_scoring.items() if len(rows)]
    return f"{model}\n{task}, prompts “{style}”\n{', '.join(counts)}"


def _draw_accuracy(
    ax: Axes,
    summary: pd.DataFrame,
    model: str,
    effect: str,
    alphas: np.ndarray,
    references: Mapping[str, float],
    *,
    explain: bool,
) -> None:
    handles: list[Handle] = []
    lines = _draw_full(ax, summary, model) + _draw_references(ax, references)
    reasons: list[str] = []
    for scoring, (marker, linestyle, side) in _SCORINGS.items():
        rows = lac_rows(summary, model, scoring, effect)
        if rows.empty:
            handles.append(note(f"{effect}, {_SCORING_WORDS[scoring]}: not run"))
            continue
        color = EFFECT_LOOKS[effect].color
        x = dodged(rows["alpha"].to_numpy(float), alphas, side)
        joined = linestyle if len(rows) == len(alphas) else "none"
        label = f"{effect}, {_SCORING_WORDS[scoring]}"
        draw_intervals(ax, x, rows, "accuracy", fmt="none", ecolor=color)
        (line,) = ax.plot(x, rows["accuracy"], color=color, linestyle=joined, marker=marker, markersize=5, label=label)
        handles.append(line)
        hollow = rows["identical"].to_numpy(bool)
        ax.plot(
            x[hollow], rows["accuracy"][hollow], marker, color=color, markerfacecolor="white", markersize=5, zorder=3
        )
        reasons += [str(why) for why in rows["why"][hollow]]
    if reasons:
        said = [f"{why} ({_BY_CONSTRUCTION[effect]})" if why == "by construction" else why for why in reasons]
        text = f"hollow: identical to the full model, {' or '.join(dict.fromkeys(said))}"
        handles.append(Line2D([], [], linestyle="none", marker="o", markerfacecolor="white", color="0.2", label=text))
    ax.set_ylabel(f"accuracy under {effect}\n(share, 95 % intervals)")
    legend_above(ax, [*handles, *(lines if explain else ())], _title(summary, model) if explain else "")


def _draw_full(ax: Axes, summary: pd.DataFrame, model: str) -> list[Handle]:
    handles: list[Handle] = []
    for scoring, (_, linestyle, _side) in _SCORINGS.items():
        for row in full_rows(summary, model, scoring).itertuples():
            ax.axhspan(row.accuracy_low, row.accuracy_high, color=FULL_COLOR, alpha=_FULL_SHADE[scoring], linewidth=0)
            label = f"full model and band, {_SCORING_WORDS[scoring]}: {row.accuracy:.2f}"
            handles.append(ax.axhline(row.accuracy, color=FULL_COLOR, linestyle=linestyle, linewidth=1.2, label=label))
    return handles


def _draw_references(ax: Axes, references: Mapping[str, float]) -> list[Handle]:
    return [
        ax.axhline(value, color="black", linestyle=linestyle, linewidth=1.2, zorder=1.5, label=f"{words}: {value:.2f}")
        for name, (linestyle, words) in _REFERENCES.items()
        if np.isfinite(value := references.get(name, np.nan))
    ]


def _draw_unparseable(ax: Axes, summary: pd.DataFrame, model: str, alphas: np.ndarray) -> None:
    handles: list[Handle] = []
    for row in full_rows(summary, model, "generated").itertuples():
        full = ax.axhline(row.unparseable, color=FULL_COLOR, linestyle="--", linewidth=1.2, label="full model")
        handles.append(full)
    for effect, side in (("readout", -1), ("bypass", 1)):
        rows = lac_rows(summary, model, "generated", effect)
        if rows.empty:
            continue
        look = EFFECT_LOOKS[effect]
        x = dodged(rows["alpha"].to_numpy(float), alphas, side)
        (points,) = ax.plot(x, rows["unparseable"], look.marker, color=look.color, markersize=5.5, label=effect)
        ax.vlines(x, 0, rows["unparseable"], color=look.color, linewidth=1.2)
        handles.append(points)
    ax.set_ylim(-0.1, 1.1)
    ax.set_yticks([0, 0.5, 1])
    ax.set_ylabel("unparseable\n(share)")
    if handles:
        legend_above(ax, handles, "", ncols=3)
    else:
        ax.text(0.5, 0.5, "no generated answers", transform=ax.transAxes, ha="center", va="center", fontsize=SMALL)


def _draw_usage(ax: Axes, summary: pd.DataFrame, model: str, alphas: np.ndarray, *, spell_out: bool) -> None:
    handles: list[Handle] = []
    for name, (phase, short, spelled, scorings) in _USAGE.items():
        for effect, side in (("readout", -1), ("bypass", 1)):
            scoring, rows = _usage_rows(summary, model, effect, name, scorings)
            words = f"{spelled if spell_out and effect == 'readout' else short}, {_STREAMS[effect]}"
            if rows.empty:
                handles.append(note(f"{words}: none"))
                continue
            look = LOOKS[phase]
            label = f"{words}, {scoring}"
            x = dodged(rows["alpha"].to_numpy(float), alphas, side)
            joined = {"readout": "-", "bypass": "--"}[effect] if len(rows) == len(alphas) else "none"
            draw_intervals(ax, x, rows, name, fmt="none", ecolor=look.color)
            (line,) = ax.plot(
                x,
                rows[name],
                color=look.color,
                linestyle=joined,
                marker=_USAGE_MARKERS[effect][phase],
                markersize=5,
                label=label,
            )
            handles.append(line)
    ax.set_ylim(0, 1.05)
    ax.set_ylabel("usage: active share of\n(layer, token) pairs")
    legend_above(ax, handles, "")


_STREAMS = {"readout": "full model's stream", "bypass": "bypassed stream"}


def _usage_rows(
    summary: pd.DataFrame, model: str, effect: str, name: str, scorings: Sequence[str]
) -> tuple[str, pd.DataFrame]:
    """Rows with a usage; observe serves for readout, whose inner stream is the full model's too."""
    for scoring in scorings:
        found = [
            rows[rows[name].notna()]
            for source in (("observe", "readout") if effect == "readout" else (effect,))
            if len(rows := lac_rows(summary, model, scoring, source))
        ]
        longest = max(found, key=len, default=None)
        if longest is not None and len(longest):
            return scoring, longest
    return "", summary.iloc[:0]
