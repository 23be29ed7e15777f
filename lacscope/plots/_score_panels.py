"""What the plots of scores share: checks of a table, the look of each effect, a grid of axes, intervals."""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.ticker import FixedLocator

from lacscope.guards._arguments import made_by
from lacscope.plots._style import counted

SUMMARY_MAKER = "lacscope.reproduction.scores.summarise"
ALPHA_LABEL = "alpha (scale of the threshold)"
_MOST_ALPHA_TICKS = 12
_DODGE = 0.012


def require_columns(table: pd.DataFrame, wanted: Iterable[str], name: str, maker: str) -> None:
    """ValueError where ``table`` lacks a column of ``wanted``."""
    made_by(name, table, pd.DataFrame, maker)
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise ValueError(
            f"'{name}' has columns {', '.join(map(str, table.columns)) or '(none)'}, without "
            f"{', '.join(repr(column) for column in missing)}. Give what {maker} returns."
        )


def require_one(table: pd.DataFrame, columns: Iterable[str], name: str) -> None:
    """ValueError where ``table`` has more than one value in a column that a figure shows one value of."""
    if table.empty:
        raise ValueError(f"'{name}' has no rows: nothing to draw. Give the rows of one task.")
    for column in columns:
        values = list(pd.unique(table[column]))
        if len(values) > 1:
            shown = ", ".join(map(str, values))
            raise ValueError(
                f"'{name}' has several values of '{column}' ({shown}); a figure shows one. "
                f"Select it, for instance {name}[{name}[{column!r}] == {values[0]!r}]."
            )


def lac_rows(summary: pd.DataFrame, model: str, scoring: str, effect: str) -> pd.DataFrame:
    """The rows of LAC itself under one effect, by alpha; those of its controls are left out."""
    chosen = (summary["model"] == model) & (summary["scoring"] == scoring) & (summary["effect"] == effect)
    chosen &= (summary["rule"] == "lac") & ~summary["protect"].astype(bool)
    return summary[chosen].sort_values("alpha")


def full_rows(summary: pd.DataFrame, model: str, scoring: str) -> pd.DataFrame:
    """The row of the full model, none where it was not scored this way."""
    chosen = (summary["model"] == model) & (summary["scoring"] == scoring) & (summary["effect"] == "none")
    return summary[chosen].iloc[:1]


def sample_count(rows: pd.DataFrame) -> str:
    """The number of samples of ``rows``, a range where it differs between them."""
    low, high = int(rows["n"].min()), int(rows["n"].max())
    return counted(high, "samples") if low == high else f"n = {low} to {high} samples"


def take_grid(
    axes: Sequence[Axes] | np.ndarray | None, height_ratios: Sequence[float], n_cols: int, figsize: tuple[float, float]
) -> np.ndarray:
    """The given axes as rows and columns, or those of a new figure; ValueError where their number is wrong."""
    n_rows = len(height_ratios)
    if axes is None:
        _, made = plt.subplots(
            n_rows, n_cols, figsize=figsize, height_ratios=height_ratios, layout="constrained", squeeze=False
        )
        return made
    given = np.asarray(axes, dtype=object)
    if given.size != n_rows * n_cols:
        raise ValueError(
            f"this plot draws on {n_rows} x {n_cols} axes (rows x columns), got {given.size}. Pass "
            f"axes=plt.subplots({n_rows}, {n_cols})[1], or leave axes out for a new figure."
        )
    return given.reshape(n_rows, n_cols)


def draw_intervals(
    ax: Axes, x: np.ndarray, rows: pd.DataFrame, name: str, *, across: bool = False, **look: object
) -> ErrorbarContainer:
    """Points of column ``name`` with the intervals of ``name_low`` and ``name_high``; ``across`` lays them flat.

    A missing end of an interval is drawn as none.
    """
    middle = rows[name].to_numpy(float)
    below = np.nan_to_num(middle - rows[f"{name}_low"].to_numpy(float)).clip(min=0)
    above = np.nan_to_num(rows[f"{name}_high"].to_numpy(float) - middle).clip(min=0)
    options: dict[str, object] = {"capsize": 2.5, "elinewidth": 1.0, "markersize": 5, **look}
    if across:
        return ax.errorbar(middle, x, xerr=np.stack([below, above]), **options)  # type: ignore[arg-type]
    return ax.errorbar(x, middle, yerr=np.stack([below, above]), **options)  # type: ignore[arg-type]


def dodged(alphas: np.ndarray, every: np.ndarray, side: int) -> np.ndarray:
    """``alphas`` moved a little to one side, so that intervals at one alpha stand beside each other."""
    return alphas + side * _DODGE * (np.ptp(every) or 1.0)


def alphas_of(summary: pd.DataFrame) -> np.ndarray:
    """The alphas at which LAC was run, ascending; ValueError where there is none."""
    alphas = np.unique(summary.loc[summary["rule"] == "lac", "alpha"].dropna().to_numpy(float))
    if not alphas.size:
        rules = ", ".join(map(str, pd.unique(summary["rule"])))
        raise ValueError(f"'summary' has no row of rule 'lac', only {rules}: there is no alpha to draw against.")
    return alphas


def label_alphas(ax: Axes, alphas: np.ndarray, every: np.ndarray) -> None:
    """The x axis of a plot by alpha: wide enough for ``every`` one, a tick at each of ``alphas`` where they fit."""
    margin = 0.05 * (np.ptp(every) or 1.0)
    ax.set_xlim(every.min() - margin, every.max() + margin)
    if len(alphas) <= _MOST_ALPHA_TICKS:
        ax.xaxis.set_major_locator(FixedLocator(list(alphas)))
        ax.xaxis.set_major_formatter("{x:g}")
