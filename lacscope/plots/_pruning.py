"""Layers removed one after the other: perplexity (SLEB), and what is kept of the accuracy (greedy by task)."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._looks import LINE_LOOKS
from lacscope.plots._style import (
    SMALL,
    caption,
    caption_below,
    legend_above,
    require_dims,
    require_names,
    take_ax,
    whole_numbers,
)

_SLEB_MAKER = "lacscope.model_measures.sleb(model, prompts)"
_GREEDY_MAKER = "lacscope.model_measures.greedy_by_task(model, questions)"


def plot_sleb(removal: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Perplexity after each removal, on a logarithmic scale; at each point the layer that went.

    Args:
        removal: the result of :func:`lacscope.model_measures.sleb`.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: a missing variable or other dimensions.

    >>> from lacscope.model_measures._sleb import sleb
    >>> from lacscope.testing import tiny_model
    >>> ax = plot_sleb(sleb(tiny_model(), [5, 17, 3, 60]))
    >>> ax.get_yscale()
    'log'
    """
    require_names(removal, ("removed", "perplexity"), "removal", _SLEB_MAKER)
    require_dims(removal["perplexity"], ("step",), "perplexity", _SLEB_MAKER)
    panel = take_ax(ax, (_width(removal), 4.0))
    look = LINE_LOOKS[0]
    values = removal["perplexity"].values
    panel.plot(removal["step"].values, values, color=look.color, marker=look.marker, markerfacecolor="white")
    panel.set_yscale("log")
    _name_layers(panel, removal, values)
    panel.set_ylabel("perplexity (all tokens pooled)")
    caption_below(panel, caption(removal))
    return panel


def plot_greedy(removal: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Share of the full model's accuracy that is kept after each removal: of each task, and their mean.

    Args:
        removal: the result of :func:`lacscope.model_measures.greedy_by_task`.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. At each point of the mean stands the layer that went.

    Raises:
        ValueError: a missing variable or other dimensions.

    >>> attrs = dict.fromkeys(("model", "data", "positions", "aggregation", "departures"), "") | {"n_samples": 4}
    >>> found = xr.Dataset({"removed": ("step", [-1, 3]), "kept": ("step", [1.0, 0.5]),
    ...     "accuracy": (("step", "task"), [[0.4], [0.2]])}, {"step": [0, 1], "task": ["gsm8k"]}, attrs)
    >>> [round(float(y), 2) for y in plot_greedy(found).get_lines()[0].get_ydata()]
    [1.0, 0.5]
    """
    require_names(removal, ("removed", "kept", "accuracy"), "removal", _GREEDY_MAKER)
    require_dims(removal["accuracy"], ("step", "task"), "accuracy", _GREEDY_MAKER)
    panel = take_ax(ax, (_width(removal), 4.0))
    steps, kept = removal["step"].values, removal["kept"].values
    lines = panel.plot(steps, kept, color="black", marker="o", markerfacecolor="white", label="mean of the tasks")
    highest = kept
    for index, task in enumerate(removal["task"].values):
        accuracy = removal["accuracy"].sel(task=task).values
        look = LINE_LOOKS[index % len(LINE_LOOKS)]
        label = f"{task} (full model: {accuracy[0]:.2f})"
        share = accuracy / accuracy[0]
        highest = np.maximum(highest, share)
        lines += panel.plot(steps, share, color=look.color, linestyle=":", marker=look.marker, label=label)
    _name_layers(panel, removal, highest)
    panel.set_ylim(bottom=0)
    panel.set_ylabel("share of the full model's accuracy")
    legend_above(panel, lines, "accuracy of written answers", ncols=2)
    caption_below(panel, caption(removal))
    return panel


def _width(removal: xr.Dataset) -> float:
    return float(np.clip(0.3 * removal.sizes["step"] + 1.5, 5.6, 11.0))


def _name_layers(ax: Axes, removal: xr.Dataset, heights: np.ndarray) -> None:
    """The layer that went, over its point."""
    ax.margins(y=0.12)
    ax.set_xlabel("layers removed (number at the point: the layer that went)")
    ax.xaxis.set_major_locator(whole_numbers())
    for step, layer, height in zip(removal["step"].values, removal["removed"].values, heights, strict=True):
        if layer >= 0:
            ax.annotate(
                str(layer), (step, height), (0, 5), textcoords="offset points", ha="center", fontsize=SMALL, color="0.2"
            )
