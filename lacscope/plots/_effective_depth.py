"""Effective depth: the layer that each of three criteria gives, side by side."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._looks import BLUE, GREEN, VERMILION
from lacscope.plots._style import SMALL, caption, caption_below, label_layers, require_dims, require_names, take_ax

_MAKER = "lacscope.model_measures.effective_depths(cosine, kl, overlap)"
_LOOKS = {
    "cosine": (BLUE, "o", "updates turn from\ntaking away to adding"),
    "kl": (VERMILION, "s", "KL of the logit lens\nbelow its share"),
    "overlap": (GREEN, "^", "overlap of the logit lens\nabove its threshold"),
}


def plot_effective_depths(depths: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The layer that each criterion gives: three markers over the model's layers.

    Args:
        depths: the result of :func:`lacscope.model_measures.effective_depths`.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. Beside each marker its depth as a share of the layers; "no layer" for a criterion that none meets.

    Raises:
        ValueError: a missing variable, or other dimensions.

    >>> found = (("criterion",), np.array([2.0, np.nan, 5.0]))
    >>> attrs = {"model": "m", "data": "d", "n_samples": 4, "positions": "all", "aggregation": "mean",
    ...          "departures": "", "n_layers": 8}
    >>> depths = xr.Dataset({"layer": found, "depth": found}, {"criterion": ["cosine", "kl", "overlap"]}, attrs)
    >>> plot_effective_depths(depths).get_xlabel()
    'layer'
    """
    require_names(depths, ("layer", "depth", "criterion"), "depths", _MAKER)
    require_dims(depths["layer"], ("criterion",), "depths", _MAKER)
    panel = take_ax(ax, (6.0, 2.6))
    rows = range(len(_LOOKS))
    for row, (criterion, (color, marker, _)) in zip(rows, _LOOKS.items(), strict=True):
        here = depths.sel(criterion=criterion)
        layer = float(here["layer"])
        if np.isnan(layer):
            panel.text(0.0, row, "no layer", va="center", fontsize=SMALL)
            continue
        panel.plot([layer], [row], marker, color=color, markersize=8, label=criterion)
        panel.annotate(
            f"{layer:.0f} ({float(here['depth']):.0%})",
            (layer, row),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=SMALL,
        )
    panel.set_yticks(rows, [words for _, _, words in _LOOKS.values()], fontsize=SMALL)
    panel.set_ylim(len(_LOOKS) - 0.5, -0.6)
    label_layers(panel, np.arange(depths.attrs["n_layers"]))
    caption_below(panel, caption(depths))
    return panel
