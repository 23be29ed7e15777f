"""Lines by layer: the mean over samples, and a band that holds the middle of them."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

QUANTILES = (0.1, 0.9)
BAND_WORDS = "line: mean of samples; band: their 10th to 90th percentile"
POOLED_WORDS = "line: mean of all tokens; band: 10th to 90th percentile of samples"


@dataclass(frozen=True)
class LineLook:
    """Told apart by line and marker as well as by colour (Okabe and Ito)."""

    color: str
    linestyle: str
    marker: str


LINE_LOOKS = (
    LineLook("#0072B2", "-", "o"),
    LineLook("#D55E00", "--", "s"),
    LineLook("#000000", "-.", "^"),
    LineLook("#009E73", ":", "D"),
)


def draw_band(
    ax: Axes,
    x: Shaped[np.ndarray, " x"],
    values: Float[np.ndarray, "sample x"],
    look: LineLook,
    label: str,
    weights: Shaped[np.ndarray, " sample"] | None = None,
) -> Line2D:
    """One line, the mean over samples, with its band; samples that are NaN are left out, one sample has no band.

    With ``weights`` the mean is weighted: by each sample's number of tokens it is that of all tokens.

    >>> import matplotlib.pyplot as plt
    >>> line = draw_band(plt.subplots()[1], np.arange(2), np.array([[1.0, 2.0], [3.0, 4.0]]), LINE_LOOKS[0], "mean")
    >>> line.get_ydata().tolist()
    [2.0, 3.0]
    """
    kept = ~np.isnan(values).all(axis=1)
    present = values[kept]
    if len(present) > 1:
        low, high = np.quantile(present, QUANTILES, axis=0)
        ax.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0)
    (line,) = ax.plot(
        x,
        np.average(present, axis=0, weights=None if weights is None else weights[kept]),
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=4,
        markerfacecolor="white",
        markevery=1 + len(x) // 40,
        label=label,
    )
    return line


def draw_variables(
    ax: Axes, result: xr.Dataset, names: tuple[str, ...], along: str, *, weight: str | None = None
) -> list[Line2D]:
    """A line with its band for each of these variables (sample, ``along``) that ``result`` has, in this order.

    A variable keeps its look where another is missing. ``weight`` (sample) weights the samples in the lines.
    """
    weights = None if weight is None else result[weight].values
    return [
        draw_band(
            ax,
            result[along].values,
            result[name].transpose("sample", along).values,
            look,
            str(result[name].attrs.get("long_name", name)),
            weights,
        )
        for name, look in zip(names, LINE_LOOKS, strict=False)
        if name in result
    ]
