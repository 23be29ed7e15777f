"""Geometry of layer updates: what a map of each token alone explains, and how the rest lies to it."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._bands import band_words, draw_band
from lacscope.plots._looks import LINE_LOOKS
from lacscope.plots._style import (
    caption,
    caption_below,
    label_layers,
    legend_above,
    require_dims,
    require_names,
    take_axes,
    title_own_figure,
)

_MAKER = "lacscope.model_measures.update_geometry(model, prompts, calibration=...)"
_PANELS = (
    ("R² on held-out tokens", {"r2": "h_l+1", "r2_update": "the update"}),
    ("cosine with T(h) - h", {"cos_update": "the whole update", "cos_residual": "the residual r"}),
    (
        "share of norm in the leading\ndirections of T(h) - h",
        {"projection_update": "the whole update", "projection_residual": "the residual r"},
    ),
)
_SPEARMAN = "Spearman over tokens of\n||r|| / ||h_l+1|| and output KL"
_LOWEST_R2 = -1.0


def plot_update_geometry(result: xr.Dataset, axes: Sequence[Axes] | np.ndarray | None = None) -> np.ndarray:
    """Four panels by layer: R^2, cosine, projection, and the rank correlation of error and output change.

    Args:
        result: the result of :func:`lacscope.model_measures.update_geometry`.
        axes: four Axes to draw on; default: a new figure.

    Returns:
        Array of the four Axes. Lines are means over samples, bands their 10th to 90th percentile; the correlation is
        over all samples' tokens, without a band. R^2 below -1 is cut off, and the axis says so.

    Raises:
        ValueError: another Dataset, or a wrong number of axes.

    >>> axes = plot_update_geometry(update_geometry(model, prompts, calibration=others))  # doctest: +SKIP
    """
    names = [name for _, lines in _PANELS for name in lines]
    require_names(result, (*names, "spearman", "layer"), "the result", _MAKER)
    for name in names:
        require_dims(result[name], ("sample", "layer"), name, _MAKER)
    panels = take_axes(axes, (1.0, 1.0, 1.0, 1.0), (16.0, 4.0))
    layers = result["layer"].values
    for ax, (ylabel, lines) in zip(panels, _PANELS, strict=False):
        drawn = [
            draw_band(ax, result, name, "layer", look, words)
            for (name, words), look in zip(lines.items(), LINE_LOOKS, strict=False)
        ]
        legend_above(ax, drawn, band_words(result, "r2"), ncols=2)
        ax.set_ylabel(ylabel)
    _bound_r2(panels[0], result)
    panels[1].set_ylim(-1.02, 1.02)
    panels[2].set_ylim(0, 1.02)
    look = LINE_LOOKS[2]
    panels[3].plot(layers, result["spearman"].values, color=look.color, marker=look.marker, markerfacecolor="white")
    panels[3].set_ylim(-1.02, 1.02)
    panels[3].set_ylabel(_SPEARMAN)
    for ax in panels:
        ax.axhline(0.0, color="0.4", linewidth=0.8, zorder=1)
        label_layers(ax, layers)
    attrs = result.attrs
    title_own_figure(panels, axes, f"{attrs['model']}: h_l+1 = T(h_l) + r, T linear on each token alone")
    caption_below(panels[0], f"T = {attrs['map']}. {caption(result)}")
    return panels


def _bound_r2(ax: Axes, result: xr.Dataset) -> None:
    lowest = float(np.nanmin([result["r2"].min(), result["r2_update"].min()]))
    ax.set_ylim(max(_LOWEST_R2, min(0.0, lowest)) - 0.02, 1.02)
    if lowest < _LOWEST_R2:
        ax.set_ylabel(f"{ax.get_ylabel()}\n(lowest: {lowest:.3g}, cut off)")
