"""What bypassing each layer does: to loss and predictions, and to accuracy."""

from typing import Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from lacscope.plots._bands import band_words, draw_band
from lacscope.plots._looks import LINE_LOOKS
from lacscope.plots._style import (
    caption,
    caption_below,
    label_layers,
    legend_above,
    require_dims,
    require_names,
    take_ax,
)

AblationMeasure = Literal["kl", "loss"]
_MAKER = "lacscope.model_measures.causal_ablation(model, prompts)"
_ACCURACY_MAKER = "lacscope.model_measures.ablation_accuracy(model, questions)"
_TICKS = [sign * tick for sign in (-1, 1) for tick in (0.25, 0.5, 1, 2, 5, 10, 20, 50)] + [0]
_LABELS = {
    "kl": "KL to the full model without the layer\n(nats; above 1 the scale is logarithmic)",
    "loss": "change of loss without the layer\n(nats per token; beyond ±1 the scale is logarithmic)",
}


def plot_ablation(ablation: xr.Dataset, ax: Axes | None = None, *, measure: AblationMeasure = "kl") -> Axes:
    """Divergence, or change of loss, when each layer is bypassed.

    Args:
        ablation: the result of :func:`lacscope.model_measures.causal_ablation`.
        ax: Axes to draw on; default: a new figure.
        measure: ``"kl"`` or ``"loss"``, both in nats.

    Returns:
        The Axes, linear up to 1 nat and logarithmic beyond, since the first layers' effect is many times the rest's.
        The line is the mean over samples, the band their 10th to 90th percentile.

    Raises:
        ValueError: an unknown measure, a missing variable or other dimensions.

    >>> from lacscope.model_measures._ablation import causal_ablation
    >>> from lacscope.testing import tiny_model
    >>> ax = plot_ablation(causal_ablation(tiny_model(), [5, 17, 3, 60]))
    >>> ax.get_yscale()
    'symlog'
    """
    if measure not in _LABELS:
        raise ValueError(f"measure must be 'kl' or 'loss', got {measure!r}.")
    require_names(ablation, (measure,), "ablation", _MAKER)
    require_dims(ablation[measure], ("sample", "layer"), measure, _MAKER)
    panel = take_ax(ax, (6.4, 4.0))
    layers = ablation["layer"].values
    line = draw_band(panel, ablation, measure, "layer", LINE_LOOKS[0], "layer bypassed")
    panel.axhline(0.0, color="0.4", linewidth=0.8, zorder=1)
    panel.set_yscale("symlog", linthresh=1.0, linscale=1.0)
    panel.yaxis.set_major_locator(FixedLocator(_TICKS))
    panel.yaxis.set_major_formatter("{x:g}")
    if measure == "kl":
        panel.set_ylim(bottom=0)
    panel.set_ylabel(_LABELS[measure])
    label_layers(panel, layers)
    legend_above(panel, [line], band_words(ablation, measure))
    caption_below(panel, caption(ablation))
    return panel


def plot_ablation_accuracy(accuracy: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Accuracy when each layer is bypassed, beside the full model's.

    Args:
        accuracy: the result of :func:`lacscope.model_measures.ablation_accuracy`.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes: share of the questions answered right.

    Raises:
        ValueError: a missing variable or other dimensions.

    >>> found = xr.Dataset({"correct": (("sample", "layer"), [[True, False]]), "full_correct": ("sample", [True])},
    ...     {"layer": [0, 1]}, {"model": "m", "data": "d", "n_samples": 1, "positions": "", "aggregation": "",
    ...                         "departures": ""})
    >>> plot_ablation_accuracy(found).get_ylabel()
    'accuracy without the layer'
    """
    require_names(accuracy, ("correct", "full_correct"), "accuracy", _ACCURACY_MAKER)
    require_dims(accuracy["correct"], ("sample", "layer"), "correct", _ACCURACY_MAKER)
    panel = take_ax(ax, (6.4, 3.8))
    layers = accuracy["layer"].values
    full = float(accuracy["full_correct"].mean())
    without = accuracy["correct"].mean("sample").values
    look = LINE_LOOKS[0]
    (line,) = panel.plot(
        layers,
        without,
        color=look.color,
        marker=look.marker,
        markerfacecolor="white",
        label=f"without the layer (n = {accuracy.sizes['sample']} questions)",
    )
    whole = panel.axhline(full, color=LINE_LOOKS[2].color, linestyle="--", linewidth=1.0, label="full model")
    panel.set_ylim(0, max(1.0, float(np.max(without))) * 1.02)
    panel.set_ylabel("accuracy without the layer")
    label_layers(panel, layers)
    legend_above(panel, [line, whole], "share of the questions answered right")
    caption_below(panel, caption(accuracy))
    return panel
