"""Score against the first layer of a changed middle: one curve for each kind of plan."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.plots._looks import BLACK, BLUE, GREEN, PINK, SKY, VERMILION
from lacscope.plots._style import (
    caption,
    caption_below,
    label_layers,
    legend_above,
    require_dims,
    require_names,
    take_ax,
)

_MAKER = "lacscope.trace_analyses.painters_curves(scores, chance)"
# Okabe and Ito, told apart by marker and line as well.
_LOOKS = {
    "skip": (BLACK, "o", "-"),
    "middle_repeat": (VERMILION, "s", "--"),
    "reverse": (BLUE, "v", "-"),
    "random": (SKY, "^", "-."),
    "parallel": (GREEN, "D", "--"),
    "looped_parallel": (PINK, "P", ":"),
    "skip_one": (BLACK, "o", "-"),
    "swap": (BLUE, "v", "--"),
}
_WORDS = {
    "skip": "skip the middle",
    "middle_repeat": "repeat the middle layer",
    "reverse": "middle reversed",
    "random": "middle shuffled",
    "parallel": "middle in parallel",
    "looped_parallel": "parallel, looped",
    "skip_one": "skip one layer",
    "swap": "swap with the next",
}


def plot_painters_curves(curves: xr.Dataset, text: str | None = None, ax: Axes | None = None) -> Axes:
    """The median normalised score of each kind of plan against its start layer, with 95 % intervals.

    Args:
        curves: the result of ``painters_curves``.
        text: small print under the figure: model, data, how a task is scored. By default what the attributes say.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. 1 is the full model and 0 is chance; tasks at chance are named under the figure and not drawn.

    Raises:
        ValueError: other dimensions than (kind, start), or a kind that has no look.

    >>> import pandas as pd
    >>> from lacscope.trace_analyses._painters import painters_curves
    >>> rows = [("t", k, s, -1, i, v) for k, s, v in [("full", -1, 1.0), ("skip", 2, 0.6)] for i in range(9)]
    >>> scores = pd.DataFrame(rows, columns=["task", "kind", "start", "seed", "sample", "score"])
    >>> plot_painters_curves(painters_curves(scores, {"t": 0.2})).get_ylabel()
    'score (chance = 0, full model = 1)'
    """
    require_names(curves, ("task", "kind", "start", "median", "median_low", "median_high", "n"), "curves", _MAKER)
    require_dims(curves["median"], ("kind", "start"), "curves", _MAKER)
    kinds = [str(kind) for kind in curves["kind"].values]
    unknown = [kind for kind in kinds if kind not in _LOOKS]
    if unknown:
        raise ValueError(f"no look for the kind of plan {unknown[0]!r}; known are {', '.join(_LOOKS)}.")
    panel = take_ax(ax, (6.0, 4.6))
    starts = curves["start"].values
    handles = []
    for place, kind in enumerate(kinds):
        color, marker, line = _LOOKS[kind]
        part = curves.sel(kind=kind).dropna("start", subset=["median"])
        x = part["start"].values + 0.08 * (place - (len(kinds) - 1) / 2)
        low, high = part["median"] - part["median_low"], part["median_high"] - part["median"]
        handles.append(
            panel.errorbar(
                x,
                part["median"].values,
                np.maximum(np.stack([low.values, high.values]), 0.0),
                color=color,
                marker=marker,
                linestyle=line,
                markersize=4,
                markerfacecolor="white",
                elinewidth=0.8,
                label=_WORDS[kind],
            )
        )
    panel.axhline(1.0, color="0.5", linewidth=0.8)
    panel.axhline(0.0, color="0.5", linewidth=0.8, linestyle=":")
    label_layers(panel, starts)
    single = set(kinds) <= {"skip_one", "swap"}
    panel.set_xlabel("layer" if single else "start layer s (layers s+1 to L-s-1 are changed)")
    panel.set_ylabel("score (chance = 0, full model = 1)")
    blind = [name for name in str(curves.attrs["not_testable"]).split(", ") if name]
    asked = {str(task): int(curves["n"].sel(task=task)) for task in curves["task"].values}
    tested = [f"{task} (n = {n})" for task, n in asked.items() if task not in blind]
    title = f"median of {', '.join(tested)}; 95 % intervals over samples" if tested else "no task is above chance"
    legend_above(panel, handles, title, ncols=2)
    said = (caption(curves) if "data" in curves.attrs else "") if text is None else text
    notes = [said] if said else []
    if blind:
        notes.append(f"not testable (the full model is not surely above chance): {', '.join(blind)}")
    caption_below(panel, ". ".join(notes))
    return panel
