"""Usage by layer, and how the active layers and the exit depth spread over tokens."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._looks import LOOKS
from lacscope.plots._style import (
    Handle,
    counted,
    fit_width,
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

_BAR_WIDTH = 0.42


def plot_usage(
    usage: xr.DataArray, per_token: xr.Dataset, axes: Sequence[Axes] | np.ndarray | None = None
) -> np.ndarray:
    """Active share of tokens by layer; over tokens, the number of active layers and the exit depth.

    Args:
        usage: the result of :func:`lacscope.layer_usage`: shares in [0, 1] over (phase, layer), coordinate ``n``.
        per_token: the result of :func:`lacscope.token_usage` of the same voids: ``active_layers`` (layers) and
            ``exit_depth`` (in [0, 1]) over (sample, token). Its sinks are left out where ``usage`` left them
            out.
        axes: three Axes to draw on; default: a new figure, wider for more layers.

    Returns:
        Array of the three Axes: bars by layer, distribution of active layers, distribution of exit depth (one
        bin per layer, heights relative to the phase's tokens). A phase without tokens is named in the legend
        and not drawn.

    Raises:
        ValueError: wrong dimensions, a missing coordinate or variable, more active layers than ``usage`` has
            layers, or a wrong number of axes.

    >>> import lacscope
    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace(n_layers=12)
    >>> by_layer, active, depth = plot_usage(lacscope.layer_usage(trace), lacscope.token_usage(trace))
    >>> len(by_layer.patches)  # 12 layers in two phases
    24
    """
    _check(usage, per_token)
    n_layers = usage.sizes["layer"]
    wide = float(np.clip(0.11 * n_layers, 4.5, 9.0))
    panels = take_axes(axes, (wide, 3.0, 3.0), (wide + 6.5, 3.8))
    _draw_bars(panels[0], usage)
    counts = np.arange(n_layers + 2) - 0.5
    _draw_distribution(panels[1], usage, per_token, "active_layers", counts)
    panels[1].set_xlabel(f"active layers (of {n_layers})")
    _draw_distribution(panels[2], usage, per_token, "exit_depth", counts / n_layers)
    panels[2].set_xlabel(fit_width(panels[2], f"exit depth (share of {n_layers} layers)"))
    title_own_figure(panels, axes, f"{usage.attrs.get('model', '')}: usage".lstrip(": "))
    return panels


def _check(usage: xr.DataArray, per_token: xr.Dataset) -> None:
    require_dims(usage, ("phase", "layer"), "usage", "lacscope.layer_usage(trace)")
    require_names(usage, ("phase", "n"), "usage", "lacscope.layer_usage(trace)")
    maker = "lacscope.token_usage(trace)"
    require_names(per_token, ("active_layers", "exit_depth", "phase", "valid", "sink"), "per_token", maker)
    require_dims(per_token, ("sample", "token"), "per_token", maker)
    most = float(per_token["active_layers"].max())
    if most > usage.sizes["layer"]:
        raise ValueError(
            f"'per_token' has a token with {most:g} active layers, 'usage' only {usage.sizes['layer']} layers: "
            "they are of different traces. Make both from one."
        )


def _draw_bars(ax: Axes, usage: xr.DataArray) -> None:
    phases = phases_of(usage, "usage")
    layers = usage["layer"].values
    handles: list[Handle] = []
    for phase, side in zip(phases, _sides(len(phases)), strict=True):
        label = usage_label(usage, phase)
        if int(usage["n"].sel(phase=phase)) == 0:
            handles.append(note(label))
            continue
        look = LOOKS[phase]
        bars = ax.bar(
            layers + side,
            usage.sel(phase=phase).values,
            _BAR_WIDTH,
            facecolor=look.tint,
            edgecolor=look.color,
            hatch=look.hatch,
            linewidth=0.6,
            label=label,
        )
        handles.append(bars)
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("usage (active share)")
    label_layers(ax, layers)
    legend_above(ax, handles, usage_title(usage))


def _sides(n_phases: int) -> tuple[float, ...]:
    return (-_BAR_WIDTH / 2, _BAR_WIDTH / 2) if n_phases == 2 else (0.0,) * n_phases


def _draw_distribution(ax: Axes, usage: xr.DataArray, per_token: xr.Dataset, name: str, edges: np.ndarray) -> None:
    counts = per_token["valid"].values
    without_sinks = usage.attrs.get("sinks") == "exclude"
    if without_sinks:
        counts = counts & ~per_token["sink"].values
    handles: list[Handle] = []
    for phase in phases_of(usage, "usage"):
        values = per_token[name].values[counts & (per_token["phase"].values == phase)]
        if not values.size:
            handles.append(note(f"{phase}: no tokens"))
            continue
        look = LOOKS[phase]
        heights = np.histogram(values, edges)[0] / values.size
        label = f"{phase} ({counted(values.size, 'tokens')})"
        filled = phase == "prefill"
        handles.append(
            ax.stairs(
                heights,
                edges,
                fill=filled,
                color=look.color,
                alpha=0.45 if filled else None,
                linestyle=look.linestyle,
                linewidth=1.5,
                label=label,
            )
        )
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(bottom=0)
    ax.set_ylabel("share of tokens")
    legend_above(ax, handles, "tokens, sinks left out" if without_sinks else "tokens, sinks included")
