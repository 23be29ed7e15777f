"""What a plan costs against what it saves: a point a plan."""

import numpy as np
import xarray as xr

from lacscope.plots._style import caption, caption_below, legend_above, require_names, take_axes
from lacscope.trace_analyses._statistics import paired_bootstrap, wilson_interval

_MAKER = "lacscope.plan_tradeoff(model, questions, plans)"
_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osDv^P*"


def plot_plan_tradeoff(found: xr.Dataset, axes: np.ndarray | None = None) -> np.ndarray:
    """Accuracy, and the change of the right choice's log-probability, against the decode time that is left.

    Args:
        found: the result of :func:`lacscope.plan_tradeoff`. Plans named ``"method, k"`` share the method's look.
        axes: two Axes; default: a new figure.

    Returns:
        The two Axes. Bars: 95 % intervals over questions, and the range of the timing rounds. Dashed: what the best
        constant answer gets right, where all questions have the same choices.

    Raises:
        ValueError: a missing variable, or another number of axes.
    """
    require_names(found, ("plan", "correct", "logp_change", "decode_ratio", "correct_full"), "found", _MAKER)
    left, right = panels = take_axes(axes, (1.0, 1.0), (10.0, 4.4))
    methods = list(dict.fromkeys(str(name).split(",")[0] for name in found["plan"].values))
    n = found.sizes["sample"]
    full = int(found["correct_full"].sum())
    low, high = wilson_interval(full, n)
    left.axhspan(low, high, color="0.85", zorder=0)
    left.axhline(full / n, color="0.4", linewidth=1)
    right.axhline(0.0, color="0.4", linewidth=1)
    handles = []
    if "best_constant" in found and np.isfinite(found["best_constant"]):
        constant = float(found["best_constant"])
        handles.append(left.axhline(constant, color="0.2", linestyle="--", label="always the same answer"))
    for place, method in enumerate(methods):
        mine = found.isel(plan=[i for i, name in enumerate(found["plan"].values) if str(name).split(",")[0] == method])
        x = mine["decode_ratio"].median("round").values
        spread = np.stack([x - mine["decode_ratio"].min("round").values, mine["decode_ratio"].max("round").values - x])
        look = {"color": _COLORS[place % 7], "marker": _MARKERS[place % 7], "linestyle": "none", "markersize": 5}
        right_answers = mine["correct"].sum("sample").values
        accuracy = right_answers / n
        bars = np.array([wilson_interval(int(k), n) for k in right_answers]).T
        error = np.maximum(np.stack([accuracy - bars[0], bars[1] - accuracy]), 0)
        handles.append(left.errorbar(x, accuracy, error, spread, elinewidth=0.8, label=method, **look))
        change = mine["logp_change"].mean("sample").values
        ends = np.array([paired_bootstrap(row.astype(float), seed=0) for row in mine["logp_change"].values]).T
        error = np.maximum(np.stack([change - ends[0], ends[1] - change]), 0)
        right.errorbar(x, change, error, spread, elinewidth=0.8, **look)
    for panel in panels:
        panel.axvline(1.0, color="0.4", linewidth=1, linestyle=":")
        panel.set_xlabel("decode time / full model's (range of rounds)")
        panel.invert_xaxis()
    left.set_ylabel("accuracy")
    left.set_ylim(0, 1)
    right.set_ylabel("log-probability of the right choice,\nless the full model's (nats)")
    legend_above(left, handles, f"grey: full model, {full} of {n} right; 95 % intervals", ncols=2)
    caption_below(left, f"{caption(found)}; skipped in prefill and decode; time of decode alone")
    return panels
