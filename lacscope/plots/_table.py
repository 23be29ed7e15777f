"""The table of results: full model against skipped, with usage, beside the paper's own figures."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from lacscope.guards._shown import markdown
from lacscope.plots._score_panels import SUMMARY_MAKER, require_columns

_KEYS = ["model", "task", "style", "scoring", "effect", "rule", "alpha", "protect"]
_USAGE = ["usage_prefill", "usage_prefill_by_sample", "usage_decode", "usage_decode_by_sample"]
_VALUES = ["accuracy", *_USAGE, "n"]
_DIFFERENCE = ["difference", "difference_low", "difference_high"]
COMPARISONS_MAKER = "lacscope.reproduction.scores.compare"

PUBLISHED_SOURCE = "Void in Language Models (arXiv 2505.14467): its published accuracies in percent, alpha 0.8"
PUBLISHED = pd.DataFrame(
    [("Qwen2.5-7B", "mmlu", 0.6924, 0.7129, 0.30), ("Mistral-7B", "gpqa", 0.1388, 0.1836, 0.70)],
    columns=["model", "task", "accuracy full", "accuracy skipped", "usage, mean of samples"],
)


def results_table(summary: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """LAC at each alpha and effect beside the full model: the paper's table, with intervals.

    Args:
        summary: the table of ``lacscope.reproduction.scores.summarise``: shares in [0, 1].
        comparisons: the table of ``lacscope.reproduction.scores.compare``: those of LAC against the full model are
            taken. A row of the summary without one has NaN for its difference.

    Returns:
        One row per model, task, scoring, effect and alpha: ``accuracy full``, ``accuracy skipped``, ``usage PP``
        (prefill) and ``usage RG`` (decode) of all tokens pooled, each with ``... by sample``, the mean of the samples'
        own, as the published code prints it, ``difference`` (skipped minus full) with ``difference low`` and
        ``difference high`` (95 %), ``detectable`` (the smallest difference found with 80 % power at this n), all
        shares, ``samples``, and ``identical``: why the answers are the full model's,
        "" where they are not. :func:`to_markdown` writes it; :data:`PUBLISHED` has the paper's figures.

    Raises:
        ValueError: a missing column, or no row of the full model for one of LAC's.

    >>> from lacscope.reproduction.scores._comparisons import compare
    >>> from lacscope.reproduction.scores._scores import summarise
    >>> from lacscope.testing import synthetic_scores
    >>> scores = synthetic_scores(8)
    >>> results_table(summarise(scores, draws=50), compare(scores, draws=50)).columns[-2:].tolist()
    ['samples', 'identical']
    """
    require_columns(summary, (*_KEYS, *_VALUES, "why"), "summary", SUMMARY_MAKER)
    require_columns(comparisons, (*_KEYS, "against", *_DIFFERENCE, "detectable"), "comparisons", COMPARISONS_MAKER)
    chosen = (summary["rule"] == "lac") & (summary["effect"] != "observe") & ~summary["protect"].astype(bool)
    lac = summary.loc[chosen, [*_KEYS, *_VALUES, "why"]]
    shared = ["model", "task", "style", "scoring"]
    full = summary.loc[summary["effect"] == "none", [*shared, "accuracy"]].rename(columns={"accuracy": "full"})
    joined = lac.merge(full, on=shared, how="left", validate="many_to_one")
    if joined["full"].isna().any():
        first = joined[joined["full"].isna()].iloc[0]
        named = ", ".join(f"{key} {first[key]}" for key in shared)
        raise ValueError(f"'summary' has no row of the full model for {named}. Give the whole summary.")
    differences = comparisons.loc[comparisons["against"] == "full", [*_KEYS, *_DIFFERENCE, "detectable"]]
    joined = joined.merge(differences, on=_KEYS, how="left", validate="one_to_one")
    return pd.DataFrame(
        {
            **{key: joined[key] for key in ("model", "task", "style", "scoring", "effect", "alpha")},
            "accuracy full": joined["full"],
            "accuracy skipped": joined["accuracy"],
            "usage PP": joined["usage_prefill"],
            "usage PP by sample": joined["usage_prefill_by_sample"],
            "usage RG": joined["usage_decode"],
            "usage RG by sample": joined["usage_decode_by_sample"],
            "difference": joined["difference"],
            "difference low": joined["difference_low"],
            "difference high": joined["difference_high"],
            "detectable": joined["detectable"].where(joined["why"] == ""),
            "samples": joined["n"].astype(int),
            "identical": joined["why"],
        }
    ).sort_values(["model", "task", "style", "scoring", "effect", "alpha"], ignore_index=True)


def to_markdown(table: pd.DataFrame) -> str:
    """The table in Markdown: shares as percent, a difference with its interval in one cell, in points.

    Any table will do: columns that are not known are written as they are. A row that is identical to the full
    model says so in place of a difference; a missing number is "n/a".

    >>> print(to_markdown(PUBLISHED))
    | model | task | accuracy full | accuracy skipped | usage, mean of samples |
    |---|---|---:|---:|---:|
    | Qwen2.5-7B | mmlu | 69.24 % | 71.29 % | 30.0 % |
    | Mistral-7B | gpqa | 13.88 % | 18.36 % | 70.0 % |
    """
    columns = [column for column in table.columns if column not in _FOLDED]
    right = ["---:" if pd.api.types.is_numeric_dtype(table[column]) else "---" for column in columns]
    lines = [_line(markdown(_HEADINGS.get(column, column)) for column in columns), f"|{'|'.join(right)}|"]
    return "\n".join([*lines, *(_line(_cell(row, column) for column in columns) for _, row in table.iterrows())])


_MISSING = "n/a"
_FOLDED = ("difference low", "difference high", "identical")
_HEADINGS = {
    "difference": "difference, points (95 %)",
    "detectable": "smallest detectable, points (80 % power)",
    "usage PP": "usage PP (prefill), tokens pooled",
    "usage PP by sample": "mean of samples",
    "usage RG": "usage RG (decode), tokens pooled",
    "usage RG by sample": "mean of samples",
}


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(row: pd.Series, column: str) -> str:
    value = row[column]
    if column == "difference":
        return _difference(row)
    if isinstance(value, str):
        return markdown(value)
    if pd.isna(value):
        return _MISSING
    if column == "detectable":
        return f"{100 * value:.1f}"
    if column.startswith(("accuracy", "usage")):
        return f"{100 * value:.{2 if column.startswith('accuracy') else 1}f} %"
    return f"{value:g}"


def _difference(row: pd.Series) -> str:
    if row.get("identical", ""):
        return f"identical {markdown(row['identical'])}"
    if pd.isna(row["difference"]):
        return _MISSING
    low, high = row.get("difference low", np.nan), row.get("difference high", np.nan)
    interval = "" if pd.isna(low) or pd.isna(high) else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * row['difference']:+.1f}{interval}"
