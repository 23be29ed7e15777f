"""Similarity of every pair of states of the residual stream."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._style import caption, caption_below, require_dims, require_names, take_axes, whole_numbers

_MAKER = "lacscope.model_measures.state_similarity(model, prompts)"


def plot_state_similarity(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Mean cosine of every pair of states, as a square map; blocks of like states stand out along the diagonal.

    Args:
        result: from :func:`lacscope.model_measures.state_similarity`.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. The scale runs from 0 to 1, or from -1 where a cosine is below 0.

    Raises:
        ValueError: another Dataset.

    >>> from lacscope.model_measures import state_similarity
    >>> from lacscope.testing import tiny_model
    >>> plot_state_similarity(state_similarity(tiny_model(), [5, 17, 3])).get_xlabel()
    'state (l: what enters layer l)'
    """
    require_names(result, ("mean_similarity",), "the result", _MAKER)
    values = result["mean_similarity"]
    require_dims(values, ("state", "other_state"), "mean_similarity", _MAKER)
    wide = float(np.clip(0.13 * result.sizes["state"], 4.2, 8.0))
    (panel,) = take_axes(None if ax is None else [ax], (1.0,), (wide + 1.1, wide + 0.8))
    image = panel.imshow(
        values.values,
        vmin=-1.0 if bool((values < 0).any()) else 0.0,
        vmax=1.0,
        origin="lower",
        aspect="equal",
        interpolation="nearest",
    )
    panel.grid(False)
    panel.set_xlabel("state (l: what enters layer l)")
    panel.set_ylabel("state")
    panel.xaxis.set_major_locator(whole_numbers())
    panel.yaxis.set_major_locator(whole_numbers())
    panel.figure.colorbar(image, ax=panel, label="cosine similarity", shrink=0.85).ax.grid(False)
    caption_below(panel, caption(result))
    return panel
