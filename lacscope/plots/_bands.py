"""Lines by layer: the mean over samples, and a band that holds the middle of them."""

from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lacscope.plots._looks import LINE_LOOKS, LineLook


class Spread(NamedTuple):
    """A variable over samples as its result has it; without ends, words say why."""

    mean: Float[np.ndarray, " x"]
    ends: Float[np.ndarray, "2 x"] | None
    n: int
    mean_words: str
    ends_words: str


def spread_of(result: xr.Dataset, name: str) -> Spread:
    """The mean and the ends that stand in ``result`` for a variable over (sample, x), or the variable itself.

    A result that nobody gave a spread (:func:`lacscope.traces.with_spread`) has its plain mean alone.

    Raises:
        ValueError: a spread of other samples than stand in the result.
    """
    values = result[name]
    if "sample" not in values.dims:
        return Spread(values.values, None, 1, "", "")
    n = int(values.notnull().any([dim for dim in values.dims if dim != "sample"]).sum())
    if f"{name}_mean" not in result:
        words = "no band: the result has none, lacscope.traces.with_spread(result) makes it" if n > 1 else ""
        return Spread(values.mean("sample").values, None, n, "mean of samples", words)
    mean = result[f"{name}_mean"]
    if mean.attrs["n"] != n:
        raise ValueError(
            f"'{name}' has {n} samples and a spread of {mean.attrs['n']}: samples were chosen after it was made. "
            "Make it anew, with lacscope.traces.with_spread(result)."
        )
    words = "mean of all tokens" if mean.attrs["mean_over"] == "tokens" else "mean of samples"
    if f"{name}_low" not in result:
        return Spread(mean.values, None, n, words, "")
    ends = np.stack([result[f"{name}_{end}"].values for end in ("low", "high")])
    edge = (1 - result[f"{name}_low"].attrs["level"]) / 2
    return Spread(mean.values, ends, n, words, f"{100 * edge:.0f}th to {100 - 100 * edge:.0f}th percentile of samples")


def band_words(result: xr.Dataset, name: str) -> str:
    """What the line and the band of a variable are, for the legend."""
    found = spread_of(result, name)
    band = f"band: {found.ends_words}" if found.ends is not None else found.ends_words
    return "; ".join(part for part in (f"line: {found.mean_words}", band) if part)


def draw_variables(ax: Axes, result: xr.Dataset, names: tuple[str, ...], along: str) -> list[Line2D]:
    """A line with its band for each of these variables that ``result`` has; its look does not depend on the others."""
    return [
        draw_band(ax, result, name, along, look, str(result[name].attrs.get("long_name", name)))
        for name, look in zip(names, LINE_LOOKS, strict=False)
        if name in result
    ]


def draw_band(ax: Axes, result: xr.Dataset, name: str, along: str, look: LineLook, label: str) -> Line2D:
    """One line, the mean over samples, with its band, of a variable over (sample, ``along``).

    >>> import matplotlib.pyplot as plt
    >>> found = xr.Dataset({"kl": (("sample", "layer"), [[1.0, 2.0], [3.0, 4.0]])}, {"layer": [0, 1]})
    >>> draw_band(plt.subplots()[1], found, "kl", "layer", LINE_LOOKS[0], "KL").get_ydata().tolist()
    [2.0, 3.0]
    """
    return draw_spread(ax, result[along].values, spread_of(result, name), look, label)


def draw_spread(ax: Axes, x: np.ndarray, found: Spread, look: LineLook, label: str) -> Line2D:
    """One line with hollow markers, on many points only some of them, and its band where there is one."""
    if found.ends is not None:
        ax.fill_between(x, *found.ends, color=look.color, alpha=0.18, linewidth=0)
    (line,) = ax.plot(
        x,
        found.mean,
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=4,
        markerfacecolor="white",
        markevery=1 + len(x) // 40,
        label=label,
    )
    return line
