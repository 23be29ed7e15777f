"""Usage by layer and phase, raw and relative to each phase's maximum."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._style import (
    Handle,
    draw_line,
    label_layers,
    legend_above,
    note,
    phases_of,
    require_dims,
    require_names,
    take_axes,
    title_own_figure,
    usage_label,
    usage_title,
)

_MAKER = "lacscope.layer_usage(trace)"
_NORMALISED = "share of the phase's maximum\n(our normalisation; the paper\ndoes not state its own)"


def plot_usage_by_layer(
    usage: xr.DataArray | xr.Dataset, axes: Sequence[Axes] | np.ndarray | None = None
) -> np.ndarray:
    """Usage by layer and phase: raw (left), and each phase divided by its maximum over the layers (right).

    Args:
        usage: shares in [0, 1] over (phase, layer), coordinate ``n``: from :func:`lacscope.layer_usage`, or the
            Dataset of ``lacscope.reproduction.scores.usage_by_layer``. At one alpha: of several, select one.
        axes: two Axes to draw on; default: a new figure.

    Returns:
        Array of the two Axes. A phase without tokens, or without a single active layer, is named in the legend
        and not drawn.

    Raises:
        ValueError: other dimensions, no ``n``, or a wrong number of axes.

    >>> import lacscope
    >>> from lacscope.testing import synthetic_trace
    >>> raw, relative = plot_usage_by_layer(lacscope.layer_usage(synthetic_trace()))
    >>> max(float(line.get_ydata().max()) for line in relative.get_lines())
    1.0
    """
    array = _usage_of(usage)
    require_dims(array, ("phase", "layer"), "usage", _MAKER)
    require_names(array, ("phase", "n"), "usage", _MAKER)
    wide = float(np.clip(0.12 * array.sizes["layer"], 4.2, 8.0))
    raw, relative = panels = take_axes(axes, (1.0, 1.0), (2 * wide + 1.6, 3.9))
    title = usage_title(array)
    _draw(raw, array, dict.fromkeys(phases_of(array, "usage"), 1.0), title)
    _draw(relative, array, {phase: float(array.sel(phase=phase).max()) for phase in phases_of(array, "usage")}, title)
    raw.set_ylabel("usage: active share of tokens")
    relative.set_ylabel(_NORMALISED)
    named = ", ".join(str(array.attrs[key]) for key in ("model", "task") if key in array.attrs)
    alpha = array.coords.get("alpha")
    at = "" if alpha is None else f" at alpha = {alpha.item():g}"
    title_own_figure(panels, axes, f"{named}: usage by layer{at}".lstrip(": "))
    return panels


def _usage_of(usage: xr.DataArray | xr.Dataset) -> xr.DataArray:
    if isinstance(usage, xr.DataArray):
        return usage
    require_names(usage, ("usage",), "usage", _MAKER)
    array = usage["usage"]
    return array.assign_attrs({**usage.attrs, **array.attrs})


def _draw(ax: Axes, usage: xr.DataArray, divisors: dict[str, float], title: str) -> None:
    layers = usage["layer"].values
    handles: list[Handle] = []
    for phase, divisor in divisors.items():
        label = usage_label(usage, phase)
        if int(usage["n"].sel(phase=phase)) == 0:
            handles.append(note(label))
        elif divisor == 0:
            handles.append(note(f"{label}: no active layer"))
        else:
            by = "" if divisor == 1.0 else f", divided by {divisor:.2f}"
            values = usage.sel(phase=phase).values / divisor
            handles.append(draw_line(ax, layers, values, phase, label + by))
    ax.set_ylim(0, 1.04)
    label_layers(ax, layers)
    legend_above(ax, handles, title)
