"""The phase control: usage in decode against prefill, raw and between matched tokens."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lacscope.plots._looks import LOOKS
from lacscope.plots._score_panels import draw_intervals, require_columns, require_one
from lacscope.plots._style import SMALL, fit_width, take_ax

_COLUMNS = ("matched_on", "difference", "low", "high", "coverage")
_MAKER = "lacscope.trace_analyses.matched_difference"
_RAW = "raw"
_BESIDE_CHARACTERS = 18
_LABEL_INCHES = 2.0  # of room that the labels of the rows take
_USAGE = "usage"


def plot_phase_control(matched: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Usage, or another number a token, in decode minus that in prefill: of all tokens, then of tokens that match.

    Args:
        matched: the table of ``lacscope.trace_analyses.matched_difference``, at one alpha: a row per way of matching,
            with ``matched_on``, ``difference`` in [-1, 1] with its interval ``low`` .. ``high``, and ``coverage``
            (share in [0, 1] of decode tokens with a partner). Of ``of``, ``n_samples``, ``n_prefill``, ``n_decode``
            and ``note``, those that are there are shown.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. Rows stand in the table's order, the first on top. One without a match is named as such.

    Raises:
        ValueError: a missing column, several alphas or numbers, or no rows.

    >>> import pandas as pd
    >>> rows = [("raw", 0.10, 0.08, 0.12, 1.0), ("position", 0.02, -0.01, 0.05, 0.7)]
    >>> ax = plot_phase_control(pd.DataFrame(rows, columns=["matched_on", "difference", "low", "high", "coverage"]))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['all tokens (raw)', 'matched on position']
    """
    require_columns(matched, _COLUMNS, "matched", _MAKER)
    require_one(matched, [name for name in ("alpha", "of") if name in matched], "matched")
    panel = take_ax(ax, (7.4, 1.7 + 0.36 * len(matched)))
    rows = matched.reset_index(drop=True).rename(columns={"low": "difference_low", "high": "difference_high"})
    color = LOOKS["decode"].color
    panel.axvline(0.0, color="0.4", linewidth=0.9)
    for height, (_, row) in enumerate(rows.iterrows()):
        words = _missing(row)
        if not words:
            filled = "white" if row["matched_on"] == _RAW else color
            one, place = rows.iloc[[height]], np.array([height])
            draw_intervals(panel, place, one, "difference", across=True, fmt="o", color=color, markerfacecolor=filled)
            words = f"{row['coverage']:.0%} matched" if row["matched_on"] != _RAW else "all"
        _say_beside(panel, height, words)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_yticks(range(len(rows)), [_words(str(name)) for name in rows["matched_on"]], parse_math=False)
    panel.margins(x=0.1)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=6))
    panel.set_xlabel(fit_width(panel, _x_label(rows), _LABEL_INCHES), parse_math=False)
    panel.set_title(_title(panel, rows), loc="left", fontsize=SMALL, parse_math=False)
    panel.grid(axis="x")
    panel.grid(visible=False, axis="y")
    return panel


def _x_label(rows: pd.DataFrame) -> str:
    of = rows["of"].iloc[0] if "of" in rows else _USAGE
    units = "shares, " if of == _USAGE else ""
    level = f"{100 * float(rows['level'].iloc[0]):g} % " if "level" in rows else ""
    return f"{of} in decode (RG) minus {of} in prefill (PP): {units}{level}intervals over samples"


def _words(matched_on: str) -> str:
    return "all tokens (raw)" if matched_on == _RAW else f"matched on {matched_on}"


def _missing(row: pd.Series) -> str:
    if not np.isnan(row["difference"]):
        return ""
    return str(row.get("note", "")) or "no match"


def _say_beside(ax: Axes, height: int, text: str) -> None:
    text = textwrap.fill(text, _BESIDE_CHARACTERS)
    across = ax.get_yaxis_transform()
    ax.text(1.01, height, text, transform=across, va="center", fontsize=SMALL, color="0.25", parse_math=False)


def _title(ax: Axes, rows: pd.DataFrame) -> str:
    """Alpha and every n that the table says; the share matched is of decode tokens."""
    first = rows.iloc[0]
    alpha = [f"alpha = {first['alpha']:g}"] if "alpha" in rows and not np.isnan(first["alpha"]) else []
    units = {"n_samples": "samples", "n_prefill": "prefill tokens", "n_decode": "decode tokens"}
    counts = [f"n = {int(first[name])} {unit}" for name, unit in units.items() if name in rows]
    lines = [", ".join([*alpha, *counts]), "matched: share of decode tokens with a partner in prefill"]
    return "\n".join(fit_width(ax, line, _LABEL_INCHES) for line in lines if line)
