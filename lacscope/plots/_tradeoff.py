"""What a plan costs against what it saves: a point a plan."""

import numpy as np
import xarray as xr

from lacscope.plots._looks import MANY
from lacscope.plots._style import caption, caption_below, legend_above, require_names, take_axes

_MAKER = "lacscope.plan_tradeoff(model, questions, plans)"
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
    needed = ("plan", "decode_ratio", "correct_full", "accuracy", "accuracy_low", "logp_change_mean", "logp_change_low")
    require_names(found, (*needed, "accuracy_full_low"), "found", _MAKER)
    left, right = panels = take_axes(axes, (1.0, 1.0), (10.0, 4.4))
    methods = list(dict.fromkeys(str(name).split(",")[0] for name in found["plan"].values))
    left.axhspan(float(found["accuracy_full_low"]), float(found["accuracy_full_high"]), color="0.85", zorder=0)
    left.axhline(float(found["accuracy_full"]), color="0.4", linewidth=1)
    right.axhline(0.0, color="0.4", linewidth=1)
    handles = []
    if "best_constant" in found and np.isfinite(found["best_constant"]):
        constant = float(found["best_constant"])
        handles.append(left.axhline(constant, color="0.2", linestyle="--", label="always the same answer"))
    for place, method in enumerate(methods):
        mine = found.isel(plan=[i for i, name in enumerate(found["plan"].values) if str(name).split(",")[0] == method])
        x = mine["decode_ratio"].median("round").values
        spread = np.stack([x - mine["decode_ratio"].min("round").values, mine["decode_ratio"].max("round").values - x])
        look = {"color": MANY[place % 7], "marker": _MARKERS[place % 7], "linestyle": "none", "markersize": 5}
        accuracy, error = _bars(mine, "accuracy", "accuracy")
        handles.append(left.errorbar(x, accuracy, error, spread, elinewidth=0.8, label=method, **look))
        change, error = _bars(mine, "logp_change_mean", "logp_change")
        right.errorbar(x, change, error, spread, elinewidth=0.8, **look)
    for panel in panels:
        panel.axvline(1.0, color="0.4", linewidth=1, linestyle=":")
        panel.set_xlabel("decode time / full model's (range of rounds)")
        panel.invert_xaxis()
    left.set_ylabel("accuracy")
    left.set_ylim(0, 1)
    right.set_ylabel("log-probability of the right choice,\nless the full model's (nats)")
    right_in_full = f"{int(found['correct_full'].sum())} of {found.sizes['sample']}"
    legend_above(left, handles, f"grey: full model, {right_in_full} right; 95 % intervals", ncols=2)
    caption_below(left, f"{caption(found)}; skipped in prefill and decode; time of decode alone")
    return panels


def _bars(found: xr.Dataset, mean: str, ends: str) -> tuple[np.ndarray, np.ndarray]:
    """Points, and how far their intervals go down and up."""
    points = found[mean].values
    down, up = points - found[f"{ends}_low"].values, found[f"{ends}_high"].values - points
    return points, np.maximum(np.stack([down, up]), 0)
