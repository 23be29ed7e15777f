"""The Curse of Depth: variance of the stream by depth, and how far each block's Jacobian is from the identity."""

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
)

_VARIANCE_MAKER = "lacscope.model_measures.depth_variance(model, prompts)"
_IDENTITY_MAKER = "lacscope.model_measures.identity_distance(model, prompts)"


def plot_depth_curse(
    variance: xr.Dataset, identity: xr.Dataset, axes: Sequence[Axes] | np.ndarray | None = None
) -> np.ndarray:
    """Variance of the stream by state (left, logarithmic) and identity distance by layer (right).

    Args:
        variance: the result of :func:`lacscope.model_measures.depth_variance`.
        identity: the result of :func:`lacscope.model_measures.identity_distance`.
        axes: two Axes to draw on; default: a new figure.

    Returns:
        Array of the two Axes. Lines are means over samples, bands their 10th to 90th percentile.

    Raises:
        ValueError: other Datasets, or a wrong number of axes.

    >>> variance, identity = depth_variance(model, prompts), identity_distance(model, prompts)  # doctest: +SKIP
    >>> left, right = plot_depth_curse(variance, identity)  # doctest: +SKIP
    """
    require_names(variance, ("variance", "state"), "variance", _VARIANCE_MAKER)
    require_dims(variance["variance"], ("sample", "state"), "variance", _VARIANCE_MAKER)
    require_names(identity, ("identity_distance", "layer"), "identity", _IDENTITY_MAKER)
    require_dims(identity["identity_distance"], ("sample", "layer"), "identity", _IDENTITY_MAKER)
    panels = take_axes(axes, (1.0, 1.0), (10.4, 4.2))
    left, right = panels
    states, layers = variance["state"].values, identity["layer"].values
    line = draw_band(left, variance, "variance", "state", LINE_LOOKS[0], "variance of the stream's entries")
    legend_above(left, [line], band_words(variance, "variance"))
    left.set_yscale("log")
    left.set_ylabel("variance\n(squared stream units, log)")
    label_layers(left, states)
    left.set_xlabel("state (l: what enters layer l)")
    words = "distance of the block's Jacobian to the identity"
    line = draw_band(right, identity, "identity_distance", "layer", LINE_LOOKS[1], words)
    legend_above(right, [line], band_words(identity, "identity_distance"))
    right.set_ylim(bottom=0)
    right.set_ylabel("rms over v of ||Jv - v|| / ||v||\n(0: J is the identity)")
    label_layers(right, layers)
    caption_below(left, caption(variance))
    caption_below(right, caption(identity))
    return panels
