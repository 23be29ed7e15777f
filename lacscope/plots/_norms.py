"""Norm of the residual stream and its change, by layer and phase."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import SymmetricalLogLocator
from matplotlib.transforms import BboxTransformTo, ScaledTranslation, blended_transform_factory

from lacscope.guards._arguments import one_of
from lacscope.plots._looks import LOOKS
from lacscope.plots._style import (
    SMALL,
    counted,
    draw_line,
    label_layers,
    legend_above,
    log_scale,
    note,
    phases_of,
    require_dims,
    require_names,
    take_axes,
    title_own_figure,
)

NormStyle = Literal["quartiles", "paper"]
_VARIABLES = ("q25", "median", "q75", "mean", "sink_share", "n", "n_sinks")
_QUANTITIES = ("resid_post_norm", "delta_norm")
_LABELLED_RANGE = 20
_MAKER = "lacscope.norm_profile(trace)"
_PAPER_WORDS = {"prefill": "PP", "decode": "RG"}
_PAPER_SPELLED = {"prefill": "PP: prompt processing (prefill)", "decode": "RG: response generation (decode)"}


def plot_norms(
    profile: xr.Dataset, axes: Sequence[Axes] | np.ndarray | None = None, *, style: NormStyle = "quartiles"
) -> np.ndarray:
    """The norm of the stream leaving each layer (left) and the layer's change of it (right), by phase.

    Args:
        profile: the result of :func:`lacscope.norm_profile`: statistics over (quantity, phase, layer).
        axes: two Axes to draw on; default: a new figure.
        style: ``"quartiles"``: the median and the band between the quartiles, over valid tokens that are not
            sinks. ``"paper"``: plain means over all valid tokens, with the paper's labels PP and RG; a strip
            above each panel (its only child Axes) shows which share of the mean the sinks make up.

    Returns:
        Array of the two Axes. The left scale is logarithmic. The right one is linear around 0 and logarithmic
        further out; its label says from where. Both are in units of the stream. A phase without tokens is
        named in the legend and not drawn.

    Raises:
        ValueError: the profile lacks a variable, quantity or dimension, has one too many, or the style or the
            number of axes is none of the possible.

    >>> import lacscope
    >>> from lacscope.testing import synthetic_trace
    >>> left, right = plot_norms(lacscope.norm_profile(synthetic_trace()))
    >>> left.get_yscale(), right.get_yscale()
    ('log', 'symlog')
    """
    _check(profile, style)
    panels = take_axes(axes, (1.0, 1.0), (10.5, 4.2 if style == "quartiles" else 5.0))
    statistics = ("q25", "median", "q75") if style == "quartiles" else ("mean",)
    draw = _draw_quartiles if style == "quartiles" else _draw_means
    for ax, quantity in zip(panels, _QUANTITIES, strict=True):
        draw(ax, profile.sel(quantity=quantity), spell_out=quantity == _QUANTITIES[0])
    _scale_norm(panels[0])
    _scale_delta(panels[1], profile[list(statistics)].sel(quantity="delta_norm"))
    for ax in panels:  # after the scales: fixing x fixes the range of y found so far
        label_layers(ax, profile["layer"].values)
    title_own_figure(panels, axes, f"{profile.attrs.get('model', '')}: residual stream norm by layer".lstrip(": "))
    return panels


def _check(profile: xr.Dataset, style: str) -> None:
    one_of("style", style, ("quartiles", "paper"))
    require_names(profile, (*_VARIABLES, "quantity", "phase"), "profile", _MAKER)
    require_dims(profile, ("quantity", "phase", "layer"), "profile", _MAKER)
    held = [str(quantity) for quantity in profile["quantity"].values]
    if set(_QUANTITIES) - set(held):
        raise ValueError(
            f"'profile' has quantities {', '.join(held)}; both {' and '.join(_QUANTITIES)} are drawn. "
            f"Give what {_MAKER} returns."
        )


def _draw_quartiles(ax: Axes, profile: xr.Dataset, *, spell_out: bool) -> None:
    handles = []
    layers = profile["layer"].values
    for phase in phases_of(profile, "profile"):
        part = profile.sel(phase=phase)
        n, n_sinks = int(part["n"]), int(part["n_sinks"])
        if n == 0:
            handles.append(note(f"{phase}: no tokens" + (f" but sinks ({n_sinks})" if n_sinks else "")))
            continue
        look = LOOKS[phase]
        ax.fill_between(
            layers, part["q25"], part["q75"], color=look.color, alpha=0.16, linestyle=look.linestyle, linewidth=0.8
        )
        handles.append(draw_line(ax, layers, part["median"].values, phase, f"{phase} ({counted(n, 'tokens')})"))
    legend_above(ax, handles, "median and quartiles, sinks left out")


def _draw_means(ax: Axes, profile: xr.Dataset, *, spell_out: bool) -> None:
    handles = []
    layers = profile["layer"].values
    strip = _sink_strip(ax, layers)
    for phase in phases_of(profile, "profile"):
        part = profile.sel(phase=phase)
        n, n_sinks = int(part["n"]) + int(part["n_sinks"]), int(part["n_sinks"])
        name = (_PAPER_SPELLED if spell_out else _PAPER_WORDS)[phase]
        if n == 0:
            handles.append(note(f"{name}: no tokens"))
            continue
        label = f"{name}, n = {n} ({n_sinks} {'sinks' if n_sinks != 1 else 'sink'})"
        handles.append(draw_line(ax, layers, part["mean"].values, phase, label))
        look = LOOKS[phase]
        strip.plot(layers, part["sink_share"].values, color=look.color, linestyle=look.linestyle, linewidth=1.2)
    legend_above(strip, handles, "mean over tokens, sinks included")


def _sink_strip(ax: Axes, layers: np.ndarray) -> Axes:
    # As wide as the axes, and of fixed height: sized by them it would upset automatic layouts.
    inches_above = ax.figure.dpi_scale_trans + ScaledTranslation(0, 1, BboxTransformTo(ax.bbox))
    place = blended_transform_factory(ax.transAxes, inches_above)
    strip = ax.inset_axes((0.0, 0.12, 1.0, 0.5), transform=place, sharex=ax)
    strip.set_ylim(-0.06, 1.06)
    strip.set_yticks([0, 1])
    strip.set_ylabel("sinks'\nshare", fontsize=SMALL)
    strip.tick_params(labelbottom=False, labelsize=SMALL)
    return strip


def _scale_norm(ax: Axes) -> None:
    log_scale(ax)
    ax.set_ylabel("norm leaving the layer\n(stream units, log)")


def _scale_delta(ax: Axes, drawn: xr.Dataset) -> None:
    sizes = np.abs(drawn.to_array().values)
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    linear = 10.0 ** np.floor(np.log10(np.median(sizes))) if sizes.size else 1.0
    few_decades = sizes.size == 0 or sizes.max() < _LABELLED_RANGE * linear
    labelled = (1, 2, 5) if few_decades else (1,)
    ax.set_yscale("symlog", linthresh=linear, subs=(2, 5))
    ax.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear, subs=labelled))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.axhline(0.0, color="0.4", linewidth=0.8, zorder=1)
    ax.set_ylabel(f"change of norm (stream\nunits, log beyond ±{linear:g})")
