"""What the plots share: the style file, the look of each phase, new axes, legends and checks of the input."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from lacscope.guards._arguments import made_by
from lacscope.guards._shown import plain
from lacscope.guards._temporary import Note, temporary
from lacscope.plots._looks import LOOKS
from lacscope.traces._schema import PHASES

Handle = Artist | Container
STYLE_FILE = Path(__file__).with_name("lacscope.mplstyle")
SMALL = "small"
POINTS_PER_INCH = 72
_CHARACTER_INCHES = 0.06  # of small text, on average
_FEWEST_CHARACTERS = 16
_LEGEND_HANDLE_INCHES = 0.4


@temporary
def style(note: Note) -> None:
    """Lacscope's look, for the figures made inside the ``with``; settings are as before afterwards.

    For a whole session use ``plt.style.use(STYLE_FILE)``. No plot applies it by itself.

    >>> import matplotlib.pyplot as plt
    >>> with style():
    ...     plt.rcParams["axes.spines.top"]
    False
    """
    settings = mpl.rc_params_from_file(STYLE_FILE, use_default_template=False)
    # Only what the file sets is put back: a notebook's backend, loaded by the first figure, turns interactive
    # mode on, and matplotlib's own style context would turn it off again, so that later figures do not show.
    before = {key: mpl.rcParams[key] for key in settings}
    note("matplotlib settings", mpl.RcParams.update, mpl.rcParams, before)
    mpl.rcParams.update(settings)


def take_ax(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """The given axes, or those of a new figure; ValueError for what is none."""
    (panel,) = take_axes(None if ax is None else [ax], (1.0,), figsize)
    return panel


def take_axes(
    axes: Sequence[Axes] | np.ndarray | None, width_ratios: Sequence[float], figsize: tuple[float, float]
) -> np.ndarray:
    """The given axes as a flat array, or those of a new figure; ValueError where their number is wrong."""
    n = len(width_ratios)
    if axes is None:
        _, made = plt.subplots(1, n, figsize=figsize, width_ratios=width_ratios, layout="constrained", squeeze=False)
        return made[0]
    given = _flat(axes)
    if len(given) != n:
        raise ValueError(
            f"this plot draws on {n} axes, got {len(given)}. Pass axes=plt.subplots(1, {n})[1], "
            "or leave axes out for a new figure."
        )
    for one in given:
        made_by("axes" if n > 1 else "ax", one, Axes, f"plt.subplots(1, {n})")
    return np.array(given, dtype=object)


def _flat(axes: Any) -> list[Any]:
    return [one for part in axes for one in _flat(part)] if isinstance(axes, (list, tuple, np.ndarray)) else [axes]


def require_dims(array: xr.DataArray | xr.Dataset, dims: Sequence[str], name: str, maker: str) -> None:
    """ValueError where ``array`` has other dimensions than ``dims``; the order does not matter."""
    made_by(name, array, (xr.DataArray, xr.Dataset), maker)
    present = [str(dim) for dim in array.dims]
    missing = [dim for dim in dims if dim not in present]
    if missing:
        raise ValueError(
            f"'{name}' has dimensions ({', '.join(present)}), without {_quoted(missing)}. Give what {maker} returns."
        )
    extra = [dim for dim in present if dim not in dims]
    if extra:
        dim = extra[0]
        values = ", ".join(str(value) for value in array[dim].values)
        raise ValueError(
            f"'{name}' has an extra dimension {_quoted(extra)}; a plot shows one at a time. "
            f"{dim} is one of {values}: select one, for instance {name}.isel({dim}=0)."
        )


def require_names(given: xr.DataArray | xr.Dataset, wanted: Sequence[str], name: str, maker: str) -> None:
    """ValueError where ``given`` lacks a variable or coordinate of ``wanted``."""
    made_by(name, given, (xr.DataArray, xr.Dataset), maker)
    present = [*given.coords, *(given.data_vars if isinstance(given, xr.Dataset) else ())]
    missing = [key for key in wanted if key not in present]
    if missing:
        raise ValueError(
            f"'{name}' has {', '.join(map(str, present)) or 'no coordinates'}, without {_quoted(missing)}. "
            f"Give what {maker} returns."
        )


def phases_of(array: xr.DataArray | xr.Dataset, name: str) -> list[str]:
    """The phases that ``array`` holds, in reading order; ValueError for a phase that is none."""
    held = [str(phase) for phase in array["phase"].values]
    unknown = [phase for phase in held if phase not in PHASES]
    if unknown:
        raise ValueError(f"'{name}' has phase {_quoted(unknown)}; a phase is one of {_quoted(PHASES)}.")
    return [phase for phase in PHASES if phase in held]


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def counted(n: int, unit: str) -> str:
    """``n`` with its unit, in the singular for 1: ``"n = 12 tokens"``."""
    return f"n = {n} {unit if n != 1 else unit.removesuffix('s')}"


def usage_label(usage: xr.DataArray, phase: str) -> str:
    """The phase and what n of ``usage`` counts: tokens, or samples where those were averaged."""
    n = int(usage["n"].sel(phase=phase))
    unit = "samples" if usage.attrs.get("weight") == "sample" else "tokens"
    return f"{phase} ({counted(n, unit)})" if n else f"{phase}: no {unit}"


def usage_title(usage: xr.DataArray) -> str:
    """What the usage runs over, in words, from its attributes."""
    over = "mean of the samples' shares" if usage.attrs.get("weight") == "sample" else "pooled over tokens"
    return f"{over}, sinks {'left out' if usage.attrs.get('sinks') == 'exclude' else 'included'}"


def draw_line(ax: Axes, x: np.ndarray, y: np.ndarray, phase: str, label: str) -> Line2D:
    """One phase's line, with hollow markers; on many points only some carry one."""
    look = LOOKS[phase]
    (line,) = ax.plot(
        x,
        y,
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=4,
        markerfacecolor="white",
        markevery=1 + len(x) // 40,
        label=label,
    )
    return line


def note(text: str) -> Line2D:
    """A legend entry without a mark, to say that something was not drawn."""
    return Line2D([], [], linestyle="none", label=text)


def legend_above(
    ax: Axes, handles: Sequence[Handle], title: str, *, ncols: int = 1, offset_points: float = 0.0
) -> Legend:
    """A legend over the top edge of the axes, where it cannot cover data."""
    shift = ScaledTranslation(0, offset_points / POINTS_PER_INCH, ax.figure.dpi_scale_trans)
    legend = ax.legend(
        handles=list(handles),
        labels=[fit_width(ax, str(handle.get_label()), _LEGEND_HANDLE_INCHES) for handle in handles],
        title="\n".join(fit_width(ax, line) for line in title.splitlines()),
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        bbox_transform=ax.transAxes + shift,
        ncols=ncols,
        alignment="left",
        frameon=False,
        borderaxespad=0.3,
        borderpad=0.0,
        fontsize=SMALL,
        title_fontsize=SMALL,
    )
    for text in (legend.get_title(), *legend.get_texts()):
        text.set_parse_math(False)
    return legend


def fit_width(ax: Axes, text: str, taken_inches: float = 0.0) -> str:
    """``text`` broken into lines about as wide as the axes, so that long words do not squeeze small panels."""
    room = ax.bbox.width / ax.figure.dpi - taken_inches
    return textwrap.fill(
        plain(text, lines=True), max(_FEWEST_CHARACTERS, int(room / _CHARACTER_INCHES)), break_on_hyphens=False
    )


def caption(result: xr.Dataset) -> str:
    """What a result rests on, in words: model, data, positions, aggregation, n, departures from its paper."""
    attrs = result.attrs
    parts = [
        str(attrs["model"]),
        *([f"weights {attrs['quantization']}"] if attrs.get("quantization") else []),
        str(attrs["data"]) or "data not named",
        counted(int(attrs["n_samples"]), "prompts"),
        str(attrs["positions"]),
        str(attrs["aggregation"]),
    ]
    text = "; ".join(parts)
    return f"{text}. Departs from {attrs['preset']}: {attrs['departures']}" if attrs["departures"] else text


def caption_below(ax: Axes, text: str, *, offset_points: float = 34.0) -> None:
    """Small print under the axis label, as wide as the axes."""
    ax.annotate(
        fit_width(ax, text),
        (0.0, 0.0),
        xycoords="axes fraction",
        xytext=(0.0, -offset_points),
        textcoords="offset points",
        va="top",
        fontsize=SMALL,
        color="0.35",
        parse_math=False,
    )


def whole_numbers() -> MaxNLocator:
    """Ticks at whole numbers, as many as there is room for."""
    return MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


def log_scale(ax: Axes) -> None:
    """A logarithmic y axis whose ticks are plain numbers."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def label_layers(ax: Axes, layers: np.ndarray) -> None:
    """The x axis of a plot by layer: whole numbers, no empty margin."""
    ax.set_xlabel("layer")
    ax.set_xlim(layers.min() - 0.7, layers.max() + 0.7)
    ax.xaxis.set_major_locator(whole_numbers())


def title_own_figure(axes: np.ndarray, given: Sequence[Axes] | np.ndarray | None, title: str) -> None:
    """Title the figure where the plot made it; a figure of the user's is the user's to title."""
    if given is None:
        axes[0].get_figure().suptitle(plain(title, lines=True), fontsize="medium", parse_math=False)
