"""Skip influence: what skipping each layer changes in every later layer, and in the output."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._looks import BLUE
from lacscope.plots._style import (
    SMALL,
    caption,
    caption_below,
    require_dims,
    require_names,
    take_axes,
    title_own_figure,
    whole_numbers,
)

_MAKER = "lacscope.model_measures.future_skip_influence (or current_..., local_...)"
_UNIT_WORDS = {"block": "a block", "attn": "a block's attention", "mlp": "a block's MLP"}
_UNDEFINED = "0.92"
_LARGEST_DISTANCE = float(np.sqrt(2))  # of two distributions


def plot_skip_influence(influence: xr.Dataset, axes: Sequence[Axes] | np.ndarray | None = None) -> np.ndarray:
    """The maximum over prompts, as the paper draws it: a map (skipped layer, later layer), the output's change beside.

    The scales are the same in every figure, so that future, current and local influence can be compared: the map is
    clipped to [0, 1], the bars run to the largest distance that two distributions have, sqrt(2).

    Args:
        influence: the result of :func:`lacscope.model_measures.future_skip_influence`, ``current_skip_influence`` or
            ``local_skip_influence``.
        axes: two Axes to draw on; default: a new figure.

    Returns:
        Array of the two Axes. Grey: layers that run before the skip takes effect.

    Raises:
        ValueError: a missing variable, other dimensions, or a wrong number of axes.

    >>> from lacscope.model_measures import current_skip_influence
    >>> from lacscope.testing import tiny_model
    >>> heat, bars = plot_skip_influence(current_skip_influence(tiny_model(), [5, 17, 3, 60]))
    >>> heat.get_ylabel()
    'layer skipped'
    """
    require_names(influence, ("max_influence", "max_output_influence"), "influence", _MAKER)
    require_dims(influence["max_influence"], ("skipped", "layer"), "max_influence", _MAKER)
    n_layers = influence.sizes["layer"]
    wide = float(np.clip(0.13 * n_layers, 4.2, 9.0))
    panels = take_axes(axes, (wide, 0.36 * wide), (1.36 * wide + 0.9, 0.86 * wide + 0.9))
    _draw_map(panels[0], influence)
    _draw_bars(panels[1], influence)
    attrs = influence.attrs
    skipped = _UNIT_WORDS[attrs["unit"]]
    title_own_figure(panels, axes, f"{attrs['model']}: skipping {skipped}, influence on {attrs['influence_on']}")
    caption_below(panels[0], caption(influence))
    return panels


def _draw_map(ax: Axes, influence: xr.Dataset) -> None:
    values = influence["max_influence"].transpose("skipped", "layer").values
    image = ax.imshow(
        values,
        cmap=mpl.colormaps[mpl.rcParams["image.cmap"]].with_extremes(bad=_UNDEFINED),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    ax.grid(False)
    ax.set_xlabel("layer measured")
    ax.set_ylabel("layer skipped")
    ax.xaxis.set_major_locator(whole_numbers())
    ax.yaxis.set_major_locator(whole_numbers())
    # In the corner that is always empty, so that map and bars keep the same rows.
    scale = ax.inset_axes((0.05, 0.13, 0.36, 0.035))
    over = "max" if np.nanmax(values, initial=0.0) > 1 else "neither"
    bar = ax.figure.colorbar(image, cax=scale, orientation="horizontal", extend=over, ticks=[0, 0.5, 1])
    bar.ax.tick_params(labelsize=SMALL)
    bar.ax.grid(False)
    bar.ax.set_title("relative change of\nthe layer's update", fontsize=SMALL, loc="left")


def _draw_bars(ax: Axes, influence: xr.Dataset) -> None:
    values = influence["max_output_influence"].values
    ax.barh(influence["skipped"].values, values, height=0.8, color=BLUE)
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.set_xlim(0, _LARGEST_DISTANCE)
    ax.set_yticks([])
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    ax.set_xlabel("change of the output\n(L2 of probabilities)")
