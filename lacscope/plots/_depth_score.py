"""The depth score of groups of prompts: does harder mean deeper?"""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._looks import BLUE, VERMILION
from lacscope.plots._style import (
    caption,
    caption_below,
    counted,
    legend_above,
    require_dims,
    require_names,
    take_ax,
)

_MAKER = "lacscope.model_measures.depth_scores(groups)"
_LOOKS = {
    "later layers": (BLUE, "o", "e_l: influence on later layers"),
    "output": (VERMILION, "s", "e_l: influence on the output"),
}
_SIDE = 0.12


def plot_depth_scores(scores: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The depth score of each group, by what e_l is: points with their bootstrap intervals.

    Args:
        scores: the result of :func:`lacscope.model_measures.depth_scores`.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. The number of prompts stands under each group. Without an interval (one sample, or the maximum
        over samples) a point stands alone.

    Raises:
        ValueError: a missing variable, or other dimensions.

    >>> import numpy as np
    >>> values = (("group", "measure"), np.array([[1.0, 2.0], [1.5, 2.5]]))
    >>> attrs = {"model": "m", "data": "d", "n_samples": 4, "positions": "all", "aggregation": "mean",
    ...          "departures": "", "n_layers": 4, "confidence": 0.95}
    >>> scores = xr.Dataset({"score": values, "low": values, "high": values}, attrs=attrs, coords={
    ...     "group": ["1 hop", "2 hops"], "measure": ["later layers", "output"], "n_samples": ("group", [2, 2])})
    >>> plot_depth_scores(scores).get_ylabel()
    'depth score\\n(layer, of 0 to 3)'
    """
    require_names(scores, ("score", "low", "high", "group", "measure", "n_samples"), "scores", _MAKER)
    require_dims(scores["score"], ("group", "measure"), "scores", _MAKER)
    n_groups = scores.sizes["group"]
    panel = take_ax(ax, (max(4.2, 1.6 + 1.0 * n_groups), 3.6))
    places = np.arange(n_groups)
    handles = []
    for side, measure in zip((-_SIDE, _SIDE), _LOOKS, strict=True):
        color, marker, label = _LOOKS[measure]
        here = scores.sel(measure=measure)
        panel.vlines(places + side, here["low"].values, here["high"].values, color=color, linewidth=1.5)
        (points,) = panel.plot(places + side, here["score"].values, marker, color=color, markersize=5, label=label)
        handles.append(points)
    numbers = [counted(int(n), "prompts") for n in scores["n_samples"].values]
    names = [f"{group}\n{n}" for group, n in zip(scores["group"].values, numbers, strict=True)]
    panel.set_xticks(places, names, parse_math=False)
    panel.set_xlim(-0.6, n_groups - 0.4)
    panel.set_ylabel(f"depth score\n(layer, of 0 to {scores.attrs['n_layers'] - 1})")
    intervals = bool(scores["low"].notnull().any())
    said = f"{scores.attrs['confidence']:.0%} intervals: bootstrap over prompts" if intervals else "no intervals"
    legend_above(panel, handles, f"{scores.attrs['model']}; {said}")
    caption_below(panel, caption(scores))
    return panel
