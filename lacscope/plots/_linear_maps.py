"""Linear maps between two models: error by pair of states."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._style import SMALL, caption, caption_below, require_dims, require_names, take_ax, whole_numbers

_MAKER = "lacscope.model_measures.linear_maps(model_a, model_b, prompts)"


def plot_linear_maps(maps: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Mean relative error of the map from each state of A (y, the first at the bottom) to each state of B (x).

    Args:
        maps: the result of :func:`lacscope.model_measures.linear_maps`; the mean over its samples is drawn.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. The scale is 0 to 1; errors above 1, worse than the zero map, are drawn in the end colour, and the
        colour bar has a point there. White dots mark each B state's best A state.

    Raises:
        ValueError: another Dataset.

    >>> ax = plot_linear_maps(linear_maps(small, large, prompts))  # doctest: +SKIP
    """
    require_names(maps, ("sample", "state_a", "state_b", "error"), "maps", _MAKER)
    require_dims(maps["error"], ("sample", "state_a", "state_b"), "maps", _MAKER)
    values = maps["error"].mean("sample").transpose("state_a", "state_b").values
    ax = take_ax(ax, (6.2, 5.4))
    image = ax.imshow(
        values, cmap="cividis", vmin=0.0, vmax=1.0, origin="lower", aspect="auto", interpolation="nearest"
    )
    ax.plot(
        np.arange(values.shape[1]),
        values.argmin(axis=0),
        linestyle="none",
        marker="o",
        markersize=4,
        markerfacecolor="white",
        markeredgecolor="black",
        markeredgewidth=0.6,
    )
    ax.grid(False)
    ax.set_xlabel(str(maps["state_b"].attrs.get("long_name", "state of B")), parse_math=False)
    ax.set_ylabel(str(maps["state_a"].attrs.get("long_name", "state of A")), parse_math=False)
    ax.xaxis.set_major_locator(whole_numbers())
    states = maps["state_a"].values.tolist()
    if states == list(range(len(states))):
        ax.yaxis.set_major_locator(whole_numbers())
    else:
        ax.set_yticks(range(len(states)), labels=list(map(str, states)))
    ax.figure.colorbar(
        image,
        ax=ax,
        label="held-out relative error ||xW - y|| / ||y||",
        extend="max" if values.max() > 1 else "neither",
    )
    ax.set_title("dots: the state of y that maps best to each state of x", loc="left", fontsize=SMALL)
    caption_below(ax, caption(maps))
    return ax
