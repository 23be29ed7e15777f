"""How far measures of a layer's importance agree: Spearman's correlation of every pair."""

import json
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from lacscope.plots._style import (
    POINTS_PER_INCH,
    SMALL,
    caption,
    caption_below,
    require_dims,
    require_names,
    take_axes,
    title_own_figure,
)
from lacscope.traces._provenance import Preset

_MAKER = "lacscope.trace_analyses.agreement(scores, seed=0)"
_LEVEL = 0.05
_COLORS = "PuOr_r"  # orange and purple are told apart with any colour vision
_EMPTY = "0.93"
_CELL_INCHES, _CHARACTER_INCHES = 0.62, 0.07
_DARK = 0.62


def plot_agreement(found: xr.Dataset, axes: Sequence[Axes] | np.ndarray | None = None) -> np.ndarray:
    """A triangle of correlations for each subset of the layers, with intervals and what stands the permutation test.

    Args:
        found: the result of :func:`lacscope.trace_analyses.agreement`, or ``lacscope.model_measures.layer_agreement``.
        axes: a sequence of as many Axes as ``found`` has subsets; default: a new figure.

    Returns:
        Array of the Axes. In each cell rho, and under it the interval of the measurement, where both scores have
        samples; bold with a star where the
        permutation's p, adjusted for all pairs of the panel, is below 0.05. A dash: a score that is the same at every
        layer.

    Raises:
        ValueError: a missing variable, other dimensions, or a wrong number of axes.

    >>> from lacscope.trace_analyses._agreement import agreement
    >>> rng = np.random.default_rng(0)
    >>> scores = {name: xr.DataArray(rng.normal(size=(3, 6)), dims=("sample", "layer")) for name in "abc"}
    >>> scores = {name: score.assign_coords(sample=range(3), layer=range(6)) for name, score in scores.items()}
    >>> len(plot_agreement(agreement(scores, seed=0)))
    2
    """
    require_names(found, ("rho", "low", "high", "p_holm", "n_layers", "n_samples"), "found", _MAKER)
    require_dims(found["rho"], ("subset", "metric", "other"), "rho", _MAKER)
    n = found.sizes["metric"] - 1
    n_panels = found.sizes["subset"]
    longest = max(len(str(name)) for name in found["metric"].values) * _CHARACTER_INCHES
    wide = max(n_panels * (_CELL_INCHES * n + longest + 0.3) + 1.0, 6.0)
    panels = take_axes(axes, (1.0,) * n_panels, (wide, _CELL_INCHES * n + longest + 1.5))
    for ax, subset in zip(panels, found["subset"].values, strict=True):
        image = _draw(ax, found.sel(subset=subset), str(subset))
    bar = panels[-1].figure.colorbar(image, ax=panels[-1], shrink=0.6, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.ax.grid(False)
    bar.set_label("Spearman's correlation over layers")
    title_own_figure(panels, axes, f"{found.attrs['model']}: do measures of a layer's importance agree?".lstrip(": "))
    below = POINTS_PER_INCH * (0.75 * longest + 0.25)
    caption_below(panels[0], f"{_words(found)} {caption(found).removeprefix('; ')}", offset_points=below)
    return panels


def _words(found: xr.Dataset) -> str:
    fixed = [str(name) for name, n in zip(found["metric"].values, found["n_samples"].values, strict=True) if n < 2]
    held = f" None with {', '.join(fixed)}, without samples to draw." if fixed else ""
    confidence = found["low"].attrs["level"]
    return (
        f"In brackets: {confidence:.0%} interval of a bootstrap over prompts, both scores drawn.{held} "
        f"*: p < {_LEVEL}, permutation of the layers, adjusted for all pairs of the panel (Holm).{_departures(found)}"
        f"{_left_out(found)}"
    )


def _left_out(found: xr.Dataset) -> str:
    """Measures that this model does not allow."""
    names = ", ".join(json.loads(str(found.attrs.get("left_out", "{}"))))
    return f" Left out, as this model does not allow it: {names}." if names else ""


def _departures(found: xr.Dataset) -> str:
    """Settings of single metrics that are not their papers'; data and n are the same for all, and said once."""
    said = []
    for name, metric in json.loads(found.attrs.get("metrics", "{}")).items():
        if metric["preset"]:
            paper = Preset(metric["preset"], "", json.loads(metric["paper_settings"]))
            if own := paper.departures(json.loads(metric["settings"])):
                said.append(f"{name}: {own}")
    return f" Not as in their papers: {'; '.join(said)}." if said else ""


def _draw(ax: Axes, panel: xr.Dataset, subset: str) -> AxesImage:
    names = [str(name) for name in panel["metric"].values]
    rows, columns = names[1:], names[:-1]
    ordered = panel.transpose("metric", "other", ...)
    below = np.tri(len(rows), dtype=bool)
    rho = np.where(below, ordered["rho"].values[1:, :-1], np.nan)
    cmap = mpl.colormaps[_COLORS].with_extremes(bad="none")
    image = ax.imshow(rho, cmap=cmap, vmin=-1, vmax=1, aspect="equal", interpolation="nearest")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    for i, j in zip(*np.nonzero(below), strict=True):
        _label(ax, int(i), int(j), ordered.isel(metric=i + 1, other=j))
    ax.set_yticks(range(len(rows)), rows, fontsize=SMALL, parse_math=False)
    ax.set_xticks(
        range(len(columns)), columns, fontsize=SMALL, rotation=45, ha="right", rotation_mode="anchor", parse_math=False
    )
    layers = "all layers" if subset == "all" else subset
    ax.set_title(f"{layers} ({int(panel['n_layers'])} layers)", loc="left", fontsize="medium", parse_math=False)
    return image


def _label(ax: Axes, row: int, column: int, cell: xr.Dataset) -> None:
    rho, low, high = (float(cell[name]) for name in ("rho", "low", "high"))
    if np.isnan(rho):
        ax.add_patch(mpl.patches.Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=_EMPTY, linewidth=0))
        ax.text(column, row, "\N{EN DASH}", ha="center", va="center", fontsize=SMALL, color="0.4")
        return
    sure = float(cell["p_holm"]) < _LEVEL
    color = "white" if abs(rho) > _DARK else "black"
    interval = "" if np.isnan(low) else f"[{low:.2f}, {high:.2f}]"
    ax.text(
        column,
        row - (0.14 if interval else 0),
        f"{rho:.2f}{'*' if sure else ''}",
        ha="center",
        va="center",
        fontsize=8,
        fontweight="bold" if sure else "normal",
        color=color,
    )
    if interval:
        ax.text(column, row + 0.22, interval, ha="center", va="center", fontsize=6, color=color)
