"""Usage against the scale alpha of the threshold."""

import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._style import (
    draw_line,
    legend_above,
    note,
    phases_of,
    require_dims,
    require_names,
    take_ax,
    usage_label,
    usage_title,
)

_MAKER = "lacscope.usage_by_alpha(trace, alphas)"


def plot_usage_by_alpha(usage: xr.DataArray, ax: Axes | None = None) -> Axes:
    """Usage over all layers against alpha, one line per phase.

    Args:
        usage: the result of :func:`lacscope.usage_by_alpha`: shares in [0, 1] over (alpha, phase), coordinate ``n``.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. Points stand in the order of alpha whatever the order given. A phase without tokens is named
        in the legend and not drawn.

    Raises:
        ValueError: ``usage`` has other dimensions, or lacks ``n``.

    >>> import lacscope
    >>> from lacscope.testing import synthetic_trace
    >>> ax = plot_usage_by_alpha(lacscope.usage_by_alpha(synthetic_trace(), [0.0, 0.4, 0.8]))
    >>> ax.get_xlabel()
    'alpha (scale of the threshold)'
    """
    require_dims(usage, ("alpha", "phase"), "usage", _MAKER)
    require_names(usage, ("alpha", "phase", "n"), "usage", _MAKER)
    panel = take_ax(ax, (5.0, 3.8))
    ordered = usage.sortby("alpha")
    handles = []
    for phase in phases_of(usage, "usage"):
        part = ordered.sel(phase=phase)
        label = usage_label(usage, phase)
        if int(part["n"]) == 0:
            handles.append(note(label))
        else:
            handles.append(draw_line(panel, ordered["alpha"].values, part.values, phase, label))
    panel.set_ylim(0, 1.02)
    panel.set_xlabel("alpha (scale of the threshold)")
    panel.set_ylabel("usage: active share of\n(layer, token) pairs")
    legend_above(panel, handles, usage_title(usage))
    return panel
