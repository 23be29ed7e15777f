"""Usage by group of tokens: dots with intervals, and the layers behind them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._looks import LOOKS
from lacscope.plots._score_panels import draw_intervals
from lacscope.plots._style import (
    SMALL,
    legend_above,
    require_names,
    take_axes,
    title_own_figure,
    whole_numbers,
)

_MAKER = "lacscope.usage_by_group(trace, groups, seed=0)"
_NAMES = ("group", "usage", "usage_low", "usage_high", "exit_depth", "usage_by_layer", "n", "n_samples")
_DODGE = 0.13


def plot_usage_by_group(found: xr.Dataset, axes: Sequence[Axes] | np.ndarray | None = None) -> np.ndarray:
    """Usage and exit depth of each group of tokens (left); its usage by layer (right).

    Args:
        found: the result of :func:`lacscope.usage_by_group`, at one alpha: of several, select one.
        axes: two Axes to draw on; default: a new figure, higher for more groups.

    Returns:
        Array of the two Axes. Groups stand in the table's order, the first on top, with their numbers of tokens and
        samples between the panels. A group of one sample has no interval. Left: shares in [0, 1]. Right: a layer's
        usage by its shade, on the whole scale 0 to 1, with a colour bar.

    Raises:
        ValueError: a missing variable, several alphas, or a wrong number of axes.

    >>> from lacscope.trace_analyses._group_usage import usage_by_group
    >>> from lacscope.trace_analyses._groups import groups_by_class
    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace()
    >>> dots, layers = plot_usage_by_group(usage_by_group(trace, groups_by_class(trace), seed=0, n_bootstrap=20))
    >>> dots.get_yticklabels()[0].get_text()
    'position 0'
    """
    require_names(found, _NAMES, "found", _MAKER)
    if "alpha" in found.dims:
        held = ", ".join(f"{alpha:g}" for alpha in found["alpha"].values)
        raise ValueError(f"'found' has several alphas ({held}); a figure shows one: give found.sel(alpha=...).")
    n_groups, n_layers = found.sizes["group"], found.sizes["layer"]
    wide = float(np.clip(0.13 * n_layers, 3.6, 8.0))
    dots, layers = panels = take_axes(axes, (3.8, wide), (wide + 6.6, 1.9 + 0.34 * n_groups))
    _draw_dots(dots, found)
    _draw_layers(layers, found)
    first = found.attrs.get("alpha", found.coords["alpha"].item() if "alpha" in found.coords else None)
    at = "" if first is None else f" at alpha = {first:g}"
    by = found.attrs["grouped_by"]
    title_own_figure(panels, axes, f"{found.attrs['model']}: usage by {by}{at}\n{_resting_on(found)}")
    return panels


def _resting_on(found: xr.Dataset) -> str:
    attrs = found.attrs
    named = f"{attrs['data']}; " if attrs["data"] else ""
    return f"{named}n = {int(attrs['n_samples'])} samples; {attrs['positions']}; {attrs['aggregation']}"


def _draw_dots(ax: Axes, found: xr.Dataset) -> None:
    places = np.arange(found.sizes["group"])
    looks = (("usage", LOOKS["prefill"], -_DODGE, True), ("exit_depth", LOOKS["decode"], _DODGE, False))
    handles = []
    for name, look, side, filled in looks:
        columns = {end: found[end].values for end in (name, f"{name}_low", f"{name}_high")}
        face = look.color if filled else "white"
        drawn = draw_intervals(
            ax, places + side, pd.DataFrame(columns), name, across=True,
            fmt=look.marker, color=look.color, markerfacecolor=face,
        )  # fmt: skip
        drawn[0].set_label(_LABELS[name])
        handles.append(drawn[0])
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel("share of layers")
    ax.set_ylim(len(places) - 0.5, -0.5)
    ax.set_yticks(places, [str(group) for group in found["group"].values], parse_math=False)
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    legend_above(ax, handles, "")
    for place, tokens, samples in zip(places, found["n"].values, found["n_samples"].values, strict=True):
        text = f"n = {int(tokens):,}\n({int(samples)} samples)"
        ax.text(
            1.02, float(place), text, transform=ax.get_yaxis_transform(), va="center", fontsize="x-small", color="0.25"
        )


_LABELS = {"usage": "usage (active layers)", "exit_depth": "exit depth (last active layer)"}


def _draw_layers(ax: Axes, found: xr.Dataset) -> None:
    values = found["usage_by_layer"].transpose("group", "layer").values
    image = ax.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.grid(False)
    ax.set_yticks(np.arange(len(values)), [])
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(whole_numbers())
    bar = ax.figure.colorbar(image, ax=ax)
    bar.set_label("share of tokens", fontsize=SMALL)
    ax.set_title("usage of each layer", loc="left", fontsize=SMALL)
