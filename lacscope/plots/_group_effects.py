"""What an effect does to each group of tokens: KL from the full model, dots with intervals."""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._looks import LINE_LOOKS
from lacscope.plots._score_panels import draw_intervals
from lacscope.plots._style import legend_above, require_names, take_ax

_MAKER = "lacscope.usage_by_group(trace, groups, values=..., seed=0)"
_DODGE = 0.13
_KL = "kl_"


def plot_effects_by_group(found: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Mean KL(full model || changed) of the next token after each group's tokens, on a logarithmic scale.

    Args:
        found: the result of :func:`lacscope.usage_by_group` at one alpha, with ``values`` whose names start with
            ``kl_``: one of each effect, such as ``kl_readout``.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. Groups stand in the table's order, the first on top. A group of one sample has no interval; a KL of
        0 lies outside a logarithmic scale and is said in words.

    Raises:
        ValueError: no such variable, or more than four.

    >>> from lacscope.trace_analyses._group_usage import usage_by_group
    >>> from lacscope.trace_analyses._groups import groups_by_class
    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace()
    >>> values = xr.Dataset({"kl_readout": trace["valid"].copy(data=np.full(trace["valid"].shape, 0.5))})
    >>> found = usage_by_group(trace, groups_by_class(trace), seed=0, n_bootstrap=20, values=values)
    >>> plot_effects_by_group(found).get_xscale()
    'log'
    """
    require_names(found, ("group",), "found", _MAKER)
    names = [
        str(name) for name in found if str(name).startswith(_KL) and not str(name).endswith(("_low", "_high", "_n"))
    ]
    if not names:
        raise ValueError(
            "'found' has no variable kl_...: give values= with one, such as kl_readout, to usage_by_group."
        )
    if len(names) > len(LINE_LOOKS):
        raise ValueError(
            f"'found' has {len(names)} variables kl_...; a figure tells {len(LINE_LOOKS)} apart: drop some."
        )
    panel = take_ax(ax, (4.6, 1.9 + 0.34 * found.sizes["group"]))
    places = np.arange(found.sizes["group"])
    offsets = _DODGE * (np.arange(len(names)) - (len(names) - 1) / 2) * 2
    handles = []
    for name, offset, look in zip(names, offsets, LINE_LOOKS, strict=False):
        columns = {end: found[end].values for end in (name, f"{name}_low", f"{name}_high")}
        drawn = draw_intervals(
            panel, places + offset, pd.DataFrame(columns), name, across=True, fmt=look.marker, color=look.color
        )
        drawn[0].set_label(name.removeprefix(_KL))
        handles.append(drawn[0])
        for place in places[found[name].values == 0]:
            panel.text(0.02, place + offset, "0", transform=panel.get_yaxis_transform(), color=look.color, va="center")
    panel.set_xscale("log")
    panel.set_xlabel("KL(full || changed) of the next token (nats)")
    panel.set_ylim(len(places) - 0.5, -0.5)
    panel.set_yticks(places, [str(group) for group in found["group"].values], parse_math=False)
    panel.grid(axis="x")
    panel.grid(visible=False, axis="y")
    level = found[f"{names[0]}_low"].attrs["level"]
    legend_above(panel, handles, f"mean over tokens, {100 * level:g} % intervals over samples")
    return panel
