"""The logit lens by layer: distance from the output, and overlap with its likeliest tokens."""

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

_MAKER = "lacscope.model_measures.logit_lens(model, prompts)"


def plot_logit_lens(lens: xr.Dataset, axes: Sequence[Axes] | np.ndarray | None = None) -> np.ndarray:
    """KL of the lens from the output in nats (left), overlap of their likeliest tokens (right), by state.

    Args:
        lens: the result of :func:`lacscope.model_measures.logit_lens`.
        axes: two Axes to draw on; default: a new figure.

    Returns:
        Array of the two Axes. Lines are means over samples, bands their 10th to 90th percentile. x is the state:
        l is what enters layer l; the last is the output itself.

    Raises:
        ValueError: another Dataset, or a wrong number of axes.

    >>> kl, overlap = plot_logit_lens(logit_lens(model, prompts))  # doctest: +SKIP
    """
    require_names(lens, ("sample", "state", "kl", "overlap"), "lens", _MAKER)
    require_dims(lens, ("sample", "state"), "lens", _MAKER)
    panels = take_axes(axes, (1.0, 1.0), (10.0, 4.2))
    states = lens["state"].values
    for ax, name, look in zip(panels, ("kl", "overlap"), LINE_LOOKS, strict=False):
        array = lens[name]
        words = str(array.attrs.get("long_name", name))
        line = draw_band(ax, lens, name, "state", look, words)
        label_layers(ax, states)
        ax.set_xlabel("state (l: what enters layer l; last: the output)")
        ax.set_ylabel(f"{words} (nats)" if name == "kl" else words)
        legend_above(ax, [line], band_words(lens, name))
    panels[0].set_ylim(bottom=0)
    panels[1].set_ylim(0, 1.04)
    caption_below(panels[0], caption(lens))
    title_own_figure(panels, axes, f"{lens.attrs['model']}: logit lens")
    return panels
