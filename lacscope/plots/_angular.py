"""States of the residual stream compared, as maps: angular distance across n layers, cosine of every pair."""

from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lacscope.plots._looks import VERMILION
from lacscope.plots._style import (
    caption,
    caption_below,
    legend_above,
    require_dims,
    require_names,
    take_ax,
    whole_numbers,
)

_DISTANCE_MAKER = "lacscope.model_measures.angular_distance(model, prompts)"
_SIMILARITY_MAKER = "lacscope.model_measures.state_similarity(model, prompts)"
_UNDEFINED = "1.0"


def plot_angular_distance(result: xr.Dataset, ax: Axes | None = None, *, scaled: bool = False) -> Axes:
    """Mean angular distance of h_l and h_{l+n}: l along x, n along y; a ring on the block to drop for each n.

    Args:
        result: the result of :func:`lacscope.model_measures.angular_distance`.
        ax: Axes to draw on; default: a new figure.
        scaled: the Curse of Depth's presentation, each row clipped to its 1st to 99th percentile and scaled to
            [0, 1]; it shows where in a row the small distances are, and not how large any is.

    Returns:
        The Axes. Blank: blocks that would end beyond the last layer.

    Raises:
        ValueError: another Dataset.

    >>> from lacscope.model_measures import angular_distance
    >>> from lacscope.testing import tiny_model
    >>> plot_angular_distance(angular_distance(tiny_model(), [5, 17, 3])).get_xlabel()
    'first layer l of the block'
    """
    require_names(result, ("mean_distance", "scaled_distance", "first_to_drop"), "the result", _DISTANCE_MAKER)
    values = result["scaled_distance" if scaled else "mean_distance"]
    require_dims(values, ("n", "layer"), str(values.name), _DISTANCE_MAKER)
    n_layers = result.sizes["layer"]
    wide = float(np.clip(0.15 * n_layers, 4.4, 9.0))
    panel = take_ax(ax, (wide + 1.2, wide))
    image = panel.imshow(
        values.transpose("n", "layer").values,
        cmap=mpl.colormaps[mpl.rcParams["image.cmap"]].with_extremes(bad=_UNDEFINED),
        origin="lower",
        extent=(-0.5, n_layers - 0.5, 0.5, n_layers + 0.5),
        vmin=0.0,
        vmax=1.0 if scaled else None,
        aspect="auto",
        interpolation="nearest",
    )
    panel.grid(False)
    panel.set_xlabel("first layer l of the block")
    panel.set_ylabel("layers n in the block")
    panel.xaxis.set_major_locator(whole_numbers())
    panel.yaxis.set_major_locator(whole_numbers())
    words = (
        "distance, each row clipped to 1-99 %\nand scaled to [0, 1]"
        if scaled
        else "angular distance of h_l and h_l+n (share of pi)"
    )
    panel.figure.colorbar(image, ax=panel, label=words).ax.grid(False)
    size = float(np.clip(150 / n_layers, 2.5, 7.0))
    look: dict[str, Any] = {
        "linestyle": "none",
        "marker": "o",
        "markersize": size,
        "markerfacecolor": "none",
        "markeredgewidth": 1.3,
    }
    panel.plot(result["first_to_drop"].values, result["n"].values, color=VERMILION, clip_on=False, **look)
    ring = Line2D([], [], color=VERMILION, **look, label="the block of n layers to drop: least distance")
    legend_above(panel, [ring], "")
    caption_below(panel, caption(result))
    return panel


def plot_state_similarity(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Mean cosine of every pair of states, as a square map; blocks of like states stand out along the diagonal.

    Args:
        result: the result of :func:`lacscope.model_measures.state_similarity`.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. The scale runs from 0 to 1, or from -1 where a cosine is below 0.

    Raises:
        ValueError: another Dataset.

    >>> from lacscope.model_measures import state_similarity
    >>> from lacscope.testing import tiny_model
    >>> plot_state_similarity(state_similarity(tiny_model(), [5, 17, 3])).get_xlabel()
    'state (l: what enters layer l)'
    """
    require_names(result, ("mean_similarity",), "the result", _SIMILARITY_MAKER)
    values = result["mean_similarity"]
    require_dims(values, ("state", "other_state"), "mean_similarity", _SIMILARITY_MAKER)
    wide = float(np.clip(0.13 * result.sizes["state"], 4.2, 8.0))
    panel = take_ax(ax, (wide + 1.1, wide + 0.8))
    image = panel.imshow(
        values.values,
        vmin=-1.0 if bool((values < 0).any()) else 0.0,
        vmax=1.0,
        origin="lower",
        aspect="equal",
        interpolation="nearest",
    )
    panel.grid(False)
    panel.set_xlabel("state (l: what enters layer l)")
    panel.set_ylabel("state")
    panel.xaxis.set_major_locator(whole_numbers())
    panel.yaxis.set_major_locator(whole_numbers())
    panel.figure.colorbar(image, ax=panel, label="cosine similarity", shrink=0.85).ax.grid(False)
    caption_below(panel, caption(result))
    return panel
