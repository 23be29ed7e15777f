"""Importance of the layers by one measure: bars by layer, with the spread over samples."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.guards._arguments import made_by
from lacscope.plots._bands import Spread, spread_of
from lacscope.plots._looks import BLUE
from lacscope.plots._style import (
    Handle,
    caption,
    caption_below,
    counted,
    label_layers,
    legend_above,
    note,
    require_names,
    take_ax,
)

_BAR, _SPREAD = BLUE, "0.15"
_LEAST_SPAN = 0.25  # of the farthest value from 0
_MAKER = "a measure of lacscope.model_measures, such as block_influence(model, prompts),"


def plot_importance(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The variable that ranks layers, by layer; larger = more important.

    Args:
        result: the result of a function of :mod:`lacscope.model_measures` whose attribute ``importance`` names a
            variable over (layer) or (sample, layer).
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. Bars, or points where all values are close to each other and far from 0, are means over samples
        (samples that are NaN left out), lines the 10th to 90th percentile of samples; one sample and measures without
        data have none.

    Raises:
        ValueError: a Dataset that ranks no layers.

    >>> from lacscope.model_measures import z_density
    >>> from lacscope.testing import tiny_model
    >>> plot_importance(z_density(tiny_model(n_layers=3))).get_xlabel()
    'layer'
    """
    made_by("result", result, xr.Dataset, _MAKER)
    if "importance" not in result.attrs:
        raise ValueError(
            f"the result has no attribute 'importance' that names its ranking. Give what {_MAKER} returns."
        )
    name = str(result.attrs["importance"])
    require_names(result, (name, "layer"), "the result", _MAKER)
    values = result[name]
    extra = sorted(set(map(str, values.dims)) - {"sample", "layer"})
    if extra:
        raise ValueError(f"'{name}' has an extra dimension '{extra[0]}'; a ranking is over (sample, layer).")
    layers = values["layer"].values
    panel = take_ax(ax, (float(np.clip(0.16 * len(layers), 4.6, 9.0)), 3.9))
    words, units = str(values.attrs.get("long_name", name)), str(values.attrs.get("units", "1"))
    found = spread_of(result, name)
    label = f"{found.mean_words} ({counted(found.n, 'samples')})" if found.n > 1 else words
    handles = [_draw(panel, layers, found, label)]
    if found.ends is not None:
        low, high = found.ends
        lines = panel.vlines(layers, low, high, color=_SPREAD, linewidth=1.2, zorder=1.5, label=found.ends_words)
        handles.append(lines)
    elif found.ends_words:
        handles.append(note(found.ends_words))
    label_layers(panel, layers)
    panel.set_ylabel(words if units == "1" else f"{words}\n({units})", parse_math=False)
    legend_above(panel, handles, str(result.attrs["orientation"]))
    caption_below(panel, caption(result))
    return panel


def _draw(ax: Axes, layers: np.ndarray, found: Spread, label: str) -> Handle:
    """Bars from 0; points where values lie so far from 0 that bars would all look the same (-0.99 .. -0.97)."""
    drawn = found.mean if found.ends is None else found.ends
    low, high = float(min(drawn.min(), found.mean.min())), float(max(drawn.max(), found.mean.max()))
    if low <= 0 <= high or high - low >= _LEAST_SPAN * max(abs(low), abs(high)):
        ax.axhline(0.0, color="0.4", linewidth=0.8)
        return ax.bar(layers, found.mean, width=0.8, color=_BAR, zorder=1, label=label)
    (points,) = ax.plot(layers, found.mean, "o", color=_BAR, markersize=5, label=label)
    return points
