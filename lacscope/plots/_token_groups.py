"""Groups of tokens by what they are, and the answer beside the prompt: results of several measures in one figure."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.guards._shown import plain
from lacscope.plots._group_effects import plot_effects_by_group
from lacscope.plots._groups import plot_usage_by_group
from lacscope.plots._phases import plot_phase_control
from lacscope.plots._style import require_names, take_axes

_MAKER = "lacscope analyze --what tokens"


def plot_token_usage(found: xr.Dataset) -> np.ndarray:
    """Usage and effects by kind of group, a row of three panels for each: usage, the layers behind it, effects.

    Args:
        found: the result ``token-usage`` of ``lacscope analyze``: groups of several kinds, with their effects.

    Returns:
        The Axes, over (kind, panel), of a new figure.

    Raises:
        ValueError: a missing variable.
    """
    require_names(found, ("kind", "layer", "group"), "found", _MAKER)
    kinds = list(dict.fromkeys(found["kind"].values))
    rows = [found.isel(group=found["kind"].values == kind).assign_attrs(grouped_by=kind) for kind in kinds]
    heights = [1.3 + 0.36 * row.sizes["group"] for row in rows]
    wide = float(np.clip(0.13 * found.sizes["layer"], 3.6, 8.0))
    figure, axes = plt.subplots(
        len(rows), 3, figsize=(wide + 11.0, sum(heights) + 0.8), width_ratios=(3.8, wide, 3.8), height_ratios=heights,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for panels, row in zip(axes, rows, strict=True):
        plot_usage_by_group(row, panels[:2])
        plot_effects_by_group(row, panels[2])
        panels[0].set_ylabel(textwrap.fill(row.attrs["grouped_by"], 20), parse_math=False)
    figure.suptitle(_title(found, 160), fontsize="small", parse_math=False)
    return axes


def plot_token_phases(found: xr.Dataset, axes: Sequence[Axes] | np.ndarray | None = None) -> np.ndarray:
    """The phase control of usage and of each effect, a panel for each.

    Args:
        found: the result ``token-phases`` of ``lacscope analyze``: rows of :func:`lacscope.matched_difference`.
        axes: one Axes for each quantity; default: a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: a missing variable, or another number of Axes.
    """
    require_names(found, ("of",), "found", _MAKER)
    table = found.to_dataframe()
    numbers = list(dict.fromkeys(table["of"]))
    if axes is None:
        figure, made = plt.subplots(
            len(numbers), 1, figsize=(8.0, 4.2 * len(numbers)), layout="constrained", squeeze=False
        )
        figure.suptitle(_title(found, 100), fontsize="small", parse_math=False)
        axes = made[:, 0]
    panels = take_axes(axes, (1.0,) * len(numbers), (8.0, 4.2))
    for ax, of in zip(panels, numbers, strict=True):
        plot_phase_control(table[table["of"] == of], ax=ax)
    return panels


def _title(found: xr.Dataset, width: int) -> str:
    attrs = found.attrs
    lines = (
        f"{attrs['model']}, {attrs['data']}: n = {attrs['n_samples']} samples{_alpha(attrs)}",
        f"{attrs['positions']}; {attrs['aggregation']}; kl_: nats from the full model's next token",
        str(attrs.get("not_grouped", "")),
    )
    return "\n".join(textwrap.fill(plain(line), width) for line in lines if line)


def _alpha(attrs: Mapping[str, Any]) -> str:
    """The alpha of the voids, from the rule that made the effects; "" where the result does not say."""
    alpha = json.loads(attrs.get("rule", "null") or "null")
    return f", alpha = {alpha['alpha']:g}" if isinstance(alpha, dict) and "alpha" in alpha else ""
