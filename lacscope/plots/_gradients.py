"""Integrated gradients: which token's stream the answer's probability rests on, by layer."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._token_maps import caption_tokens, draw_token_map, sample_map

_MAKER = "lacscope.model_measures.integrated_gradients(model, prompts, answers)"


def plot_integrated_gradients(gradients: xr.Dataset, sample: int | np.integer = 0, ax: Axes | None = None) -> Axes:
    """Integrated gradient of the answer's probability by state (y, 0 at the bottom) and token (x).

    Args:
        gradients: from :func:`lacscope.model_measures.integrated_gradients`.
        sample: the sample's value in the coordinate ``sample``.
        ax: Axes to draw on; default: a new figure, sized for the tokens and states.

    Returns:
        The Axes. The scale is symmetric about 0 and ends at the largest value but position 0's, as the authors have
        it; what goes beyond is drawn in the end colour, and the colour bar has a point there.

    Raises:
        ValueError: another Dataset, or a sample that it has not.

    >>> ax = plot_integrated_gradients(integrated_gradients(model, "2 + 3 = ", "5"))  # doctest: +SKIP
    """
    rows = sample_map(gradients, "attribution", sample, _MAKER)
    values = rows["attribution"].transpose(..., "token").values
    unit = rows.attrs.get("unit", "block")
    what = {"block": "", "attn": " along the attention's output", "mlp": " along the MLP's output"}[unit]
    end = float(np.abs(values[:, 1:]).max()) or 1.0
    ax = draw_token_map(
        rows,
        values,
        ax,
        cmap="PuOr",
        limits=(-end, end),
        colorbar="integrated gradient\n(probability; scale without position 0)",
        title=f"{gradients.attrs['model']}, sample {sample}: integrated gradients of the answer's probability{what}",
        what="token read",
    )
    caption_tokens(ax, gradients)
    return ax
