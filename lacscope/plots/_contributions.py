"""What each layer adds to the stream: how much of it, and in which direction."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from lacscope.plots._bands import band_words, draw_variables
from lacscope.plots._style import (
    caption,
    caption_below,
    label_layers,
    legend_above,
    require_dims,
    require_names,
    take_ax,
)

_CONTRIBUTIONS = ("attn_contribution", "mlp_contribution", "block_contribution")
_LOG_BEYOND = 20.0
_COSINES = ("cos_attn_resid", "cos_mlp_resid", "cos_update_resid", "cos_pre_post")


def plot_relative_contributions(contributions: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Norm of what attention, MLP and block add, as a share of the stream's norm, by layer.

    Args:
        contributions: the result of :func:`lacscope.model_measures.relative_contributions`.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. Lines are means over the tokens of all samples, bands the samples' 10th to 90th percentile. Sublayers
        that were not measured are not drawn. The scale is logarithmic where the means span a factor of 20.

    Raises:
        ValueError: another Dataset.

    >>> ax = plot_relative_contributions(relative_contributions(model, prompts))  # doctest: +SKIP
    """
    maker = "lacscope.model_measures.relative_contributions(model, prompts)"
    panel = _draw(contributions, ax, _CONTRIBUTIONS, "block_contribution", maker)
    log = _spans_widely([line.get_ydata() for line in panel.get_lines()])
    if log:
        panel.set_yscale("log")
    else:
        panel.set_ylim(bottom=0)
    panel.set_ylabel(f"norm of the part added, as a share\nof the stream's{' (log scale)' if log else ''}")
    return panel


def plot_residual_cosines(cosines: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Cosine of what attention, MLP and block add with the stream, by layer; below 0 it erases, above it amplifies.

    Args:
        cosines: the result of :func:`lacscope.model_measures.residual_cosines`.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. Lines are means over the tokens of all samples, bands the samples' 10th to 90th percentile. Sublayers
        that were not measured are not drawn.

    Raises:
        ValueError: another Dataset.

    >>> ax = plot_residual_cosines(residual_cosines(model, prompts))  # doctest: +SKIP
    """
    maker = "lacscope.model_measures.residual_cosines(model, prompts)"
    panel = _draw(cosines, ax, _COSINES, "cos_update_resid", maker)
    panel.axhline(0.0, color="0.4", linewidth=0.8, zorder=1)
    panel.set_ylabel("cosine")
    return panel


def _spans_widely(lines: Sequence[ArrayLike]) -> bool:
    """True where the first layers would flatten the others on a linear scale; zeros have no place on another."""
    values = np.concatenate([np.asarray(line, dtype=float) for line in lines])
    return bool(values.min() > 0 and values.max() > _LOG_BEYOND * values.min())


def _draw(result: xr.Dataset, ax: Axes | None, names: tuple[str, ...], needed: str, maker: str) -> Axes:
    require_names(result, ("sample", "layer", "n_tokens", needed), "the result", maker)
    require_dims(result, ("sample", "layer"), "the result", maker)
    panel = take_ax(ax, (6.4, 4.4))
    lines = draw_variables(panel, result, names, "layer")
    label_layers(panel, result["layer"].values)
    legend_above(panel, lines, band_words(result, needed), ncols=2)
    caption_below(panel, caption(result))
    return panel
