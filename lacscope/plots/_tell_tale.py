"""The Tell-Tale Norm: a signal of each candidate response by layer, how it ranks them, and how often it is right."""

from typing import Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

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

NormSignal = Literal["norm_sum", "excess", "count_above", "late_excess"]
_MAKER = "lacscope.trace_analyses.norm_signals(trace, thresholds)"
_RANK_MAKER = "lacscope.trace_analyses.rank_candidates(signals)"
_SHARE_MAKER = "lacscope.trace_analyses.share_right(signals, right, questions, seed=0)"
_OTHERS = "0.62"
_SIGNAL_WORDS = {
    "norm_sum": "A: sum of the norms",
    "excess": "B: excess over the threshold",
    "count_above": "C: tokens above the threshold",
    "late_excess": "D: excess in the last part",
    "length": "length of the response (control)",
}


def plot_norm_signals(
    signals: xr.Dataset, ranking: xr.Dataset, ax: Axes | None = None, *, signal: NormSignal = "excess"
) -> Axes:
    """One signal by layer, a line a candidate: the first of the ranking and the last stand out.

    Args:
        signals: the result of :func:`lacscope.trace_analyses.norm_signals`: of the candidates of one question.
        ranking: the result of :func:`lacscope.trace_analyses.rank_candidates` of these signals; its layers are shaded.
        ax: Axes to draw on; default: a new figure.
        signal: the signal to draw.

    Returns:
        The Axes.

    Raises:
        ValueError: a missing variable, other dimensions, or a ranking of other samples.

    >>> from lacscope.trace_analyses._tell_tale import norm_signals, norm_thresholds, rank_candidates
    >>> from lacscope.testing import synthetic_trace
    >>> signals = norm_signals(synthetic_trace(), norm_thresholds(synthetic_trace()))
    >>> len(plot_norm_signals(signals, rank_candidates(signals)).get_lines())
    3
    """
    require_names(signals, (signal, "n_decode"), "signals", _MAKER)
    require_dims(signals[signal], ("sample", "layer"), signal, _MAKER)
    require_names(ranking, ("rank", "score"), "ranking", _RANK_MAKER)
    ranked, held = (one["sample"].values.tolist() for one in (ranking, signals))
    if ranked != held:
        raise ValueError(f"'ranking' has samples {ranked}, 'signals' {held}. Give what {_RANK_MAKER} returns.")
    panel = take_ax(ax, (6.4, 4.2))
    layers = signals["layer"].values
    order = np.argsort(ranking["rank"].values, kind="stable")
    handles = []
    for place, sample in enumerate(order):
        look = {len(order) - 1: LINE_LOOKS[1], 0: LINE_LOOKS[0]}.get(place)
        tokens = int(signals["n_decode"].values[sample])
        (line,) = panel.plot(
            layers,
            signals[signal].values[sample],
            color=look.color if look else _OTHERS,
            linestyle=look.linestyle if look else "-",
            linewidth=1.8 if look else 0.8,
            zorder=3 if look else 2,
            label=f"{_place(place, len(order))}: sample {signals['sample'].values[sample]}, {tokens} tokens",
        )
        if look is not None:
            handles.append(line)
    chosen = np.sort([int(layer) for layer in str(ranking.attrs["layers"]).split(", ")])
    for run in np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1):
        panel.axvspan(run[0] - 0.5, run[-1] + 0.5, color="0.5", alpha=0.12, linewidth=0, zorder=0)
    panel.set_ylim(bottom=0)
    panel.set_ylabel(f"{signals[signal].attrs['long_name']}\n({signals[signal].attrs['units']})", parse_math=False)
    label_layers(panel, layers)
    by = f"{len(order)} candidates ranked by {ranking.attrs['signal']} over the shaded layers"
    legend_above(panel, handles, by)
    caption_below(panel, caption(signals))
    return panel


def plot_share_right(found: xr.Dataset, ax: Axes | None = None) -> Axes:
    """How often the right answer comes first by each signal, beside chance.

    Args:
        found: the result of :func:`lacscope.trace_analyses.share_right`.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. Bars: intervals over questions. The response's length is the control, and hollow.

    Raises:
        ValueError: a missing variable or other dimensions.

    >>> values = ("signal", np.array([0.5, 0.25]))
    >>> attrs = {"model": "m", "data": "d", "n_samples": 8, "positions": "all", "aggregation": "mean",
    ...          "departures": "", "n_questions": 4}
    >>> found = xr.Dataset({"share": values, "low": values, "high": values, "chance": 0.25},
    ...                    {"signal": ["excess", "length"]}, attrs)
    >>> [tick.get_text() for tick in plot_share_right(found).get_yticklabels()]
    ['B: excess over the threshold', 'length of the response (control)']
    """
    require_names(found, ("share", "low", "high", "chance", "signal"), "found", _SHARE_MAKER)
    require_dims(found["share"], ("signal",), "share", _SHARE_MAKER)
    panel = take_ax(ax, (6.4, 3.2))
    look = LINE_LOOKS[0]
    for place, name in enumerate(found["signal"].values):
        one = found.sel(signal=name)
        panel.hlines(place, float(one["low"]), float(one["high"]), color=look.color, linewidth=1.5)
        face = "white" if name == "length" else look.color
        panel.plot([float(one["share"])], [place], look.marker, color=look.color, markerfacecolor=face)
    chance = panel.axvline(float(found["chance"]), color="0.4", linestyle=":", label="chance")
    panel.set_yticks(range(found.sizes["signal"]), [_SIGNAL_WORDS[str(name)] for name in found["signal"].values])
    panel.set_ylim(found.sizes["signal"] - 0.5, -0.5)
    panel.set_xlim(-0.02, 1.02)
    panel.set_xlabel("share of questions whose right answer has the largest signal")
    panel.grid(axis="x")
    panel.grid(visible=False, axis="y")
    legend_above(panel, [chance], f"{found.attrs['model']}; n = {found.attrs['n_questions']} questions")
    caption_below(panel, caption(found))
    return panel


def _place(place: int, n: int) -> str:
    return "first" if place == 0 else "last" if place == n - 1 else f"{place + 1} of {n}"
