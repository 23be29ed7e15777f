"""Residual erasure: how long each token's stream is needed."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._token_maps import caption_tokens, draw_token_map, sample_map

_MAKER = "lacscope.model_measures.residual_erasure(model, prompts, answers, mean_over=...)"


def plot_residual_erasure(erasure: xr.Dataset, sample: int | np.integer = 0, ax: Axes | None = None) -> Axes:
    """Change of the answer's probabilities by the state (y, 0 at the bottom) and token (x) that is erased.

    Args:
        erasure: from :func:`lacscope.model_measures.residual_erasure`.
        sample: the sample's value in the coordinate ``sample``.
        ax: Axes to draw on; default: a new figure, sized for the tokens and states.

    Returns:
        The Axes. The scale begins at 0 and ends at the map's largest effect. A line stands before the answer.

    Raises:
        ValueError: another Dataset, or a sample that it has not.

    >>> ax = plot_residual_erasure(residual_erasure(model, "2 + 3 = ", "5", mean_over=prompts))  # doctest: +SKIP
    """
    rows = sample_map(erasure, "effect", sample, _MAKER)
    values = rows["effect"].transpose("state", "token").values
    ax = draw_token_map(
        rows,
        values,
        ax,
        cmap="cividis",
        limits=(0.0, float(values.max()) or 1.0),
        colorbar="max over answer tokens of ||p - p~||\n(L2 distance of probabilities)",
        title=f"{erasure.attrs['model']}, sample {sample}: effect of erasing one token at one state",
        what="token erased",
    )
    caption_tokens(ax, erasure)
    return ax
