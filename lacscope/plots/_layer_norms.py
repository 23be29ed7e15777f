"""Mean norm and mean change of norm, by layer and phase."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lacscope.plots._looks import LOOKS
from lacscope.plots._score_panels import require_columns, require_one
from lacscope.plots._style import (
    Handle,
    counted,
    draw_line,
    label_layers,
    legend_above,
    log_scale,
    note,
    take_axes,
    title_own_figure,
)
from lacscope.traces._schema import PHASES

_QUANTITIES = {
    "resid_post_norm": "norm leaving the layer\n(stream units{scale}; sinks excluded)",
    "delta_norm": "change of norm over the layer\n(stream units; sinks excluded)",
}
_MAKER = "lacscope.trace_analyses.norms_by_layer(norms)"
_LOG_BEYOND = 8.0
_COLUMNS = ("model", "task", "phase", "layer", "n", *(f"{q}_{s}" for q in _QUANTITIES for s in ("mean", "median")))


def plot_layer_norms(norms: pd.DataFrame, axes: Sequence[Axes] | np.ndarray | None = None) -> np.ndarray:
    """Mean norm of the stream leaving each layer (left), mean change of it (right), by phase; medians thin beside.

    Args:
        norms: one row per phase and layer of one model and task: ``n`` (tokens) and the mean and median of
            ``resid_post_norm`` and ``delta_norm``, in stream units, over tokens that are not sinks.
        axes: two Axes to draw on; default: a new figure.

    Returns:
        Array of the two Axes. The left scale is logarithmic where the means span a factor of 8 or more. A phase
        without tokens is named in the legend and not drawn.

    Raises:
        ValueError: a missing column, several models or tasks, an unknown phase, a (phase, layer) that stands
            twice, or a wrong number of axes.

    >>> from lacscope.trace_analyses._norms import norms_by_layer
    >>> from lacscope.testing import synthetic_norms
    >>> left, right = plot_layer_norms(norms_by_layer(synthetic_norms(3)))
    >>> len(left.get_lines())  # a mean and a median in two phases
    4
    """
    _check(norms)
    n_layers = norms["layer"].nunique()
    wide = float(np.clip(0.12 * n_layers, 4.2, 8.0))
    panels = take_axes(axes, (1.0, 1.0), (2 * wide + 1.6, 3.9))
    for ax, quantity in zip(panels, _QUANTITIES, strict=True):
        _draw(ax, norms, quantity)
    scale = ", log" if _scale_norm(panels[0], norms["resid_post_norm_mean"].to_numpy(float)) else ""
    for ax, words in zip(panels, _QUANTITIES.values(), strict=True):
        ax.set_ylabel(words.format(scale=scale))
        label_layers(ax, norms["layer"].to_numpy())
    panels[1].axhline(0.0, color="0.4", linewidth=0.8, zorder=1)
    first = norms.iloc[0]
    title_own_figure(panels, axes, f"{first['model']}, {first['task']}: residual stream norm by layer")
    return panels


def _check(norms: pd.DataFrame) -> None:
    require_columns(norms, _COLUMNS, "norms", _MAKER)
    require_one(norms, ("model", "task"), "norms")
    unknown = sorted(set(norms["phase"]) - set(PHASES))
    if unknown:
        raise ValueError(f"'norms' has phase {', '.join(map(repr, unknown))}; a phase is one of {', '.join(PHASES)}.")
    if norms.duplicated(["phase", "layer"]).any():
        raise ValueError(f"'norms' has several rows of one phase and layer; average over samples first: {_MAKER}.")


def _draw(ax: Axes, norms: pd.DataFrame, quantity: str) -> None:
    handles: list[Handle] = []
    for phase in PHASES:
        rows = norms[norms["phase"] == phase].sort_values("layer")
        if rows.empty or not rows["n"].any():
            handles.append(note(f"{phase}: no tokens"))
            continue
        layers, label = rows["layer"].to_numpy(), f"{phase}, mean ({_count(rows)})"
        handles.append(draw_line(ax, layers, rows[f"{quantity}_mean"].to_numpy(float), phase, label))
        look = LOOKS[phase]
        ax.plot(layers, rows[f"{quantity}_median"], color=look.color, linestyle=look.linestyle, linewidth=0.7)
    handles.append(Line2D([], [], color="0.2", linewidth=0.7, label="thin: median (samples' medians averaged)"))
    legend_above(ax, handles, "")


def _count(rows: pd.DataFrame) -> str:
    samples = f" of {int(rows['samples'].max())} samples" if "samples" in rows else ""
    return counted(int(rows["n"].max()), "tokens") + samples


def _scale_norm(ax: Axes, drawn: np.ndarray) -> bool:
    """A logarithmic scale where the values need one; whether they do."""
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size or drawn.min() <= 0 or drawn.max() < _LOG_BEYOND * drawn.min():
        ax.set_ylim(bottom=0)
        return False
    log_scale(ax)
    return True
