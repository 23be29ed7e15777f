"""The norm-only null: the rule applied to the median norm curve, one mask for every token. What is left over it?"""

import math

import numpy as np
import pandas as pd
from jaxtyping import Float

from lacscope.reproduction.scores._conditions import RUN, conditions
from lacscope.reproduction.scores._scores import layer_counts


def profile_left_over(usage: Float[np.ndarray, " layer"], null: Float[np.ndarray, " layer"]) -> tuple[float, float]:
    """Correlation over layers of a usage profile with a null's, and the share of its variance left over the null's.

    The share is 1 - correlation^2: what the best straight line from the null's profile leaves. A null that is the
    same at every layer explains nothing (correlation NaN, 1 left); a flat profile has nothing to explain (NaN, NaN).

    >>> profile_left_over(np.array([1.0, 0.2, 0.2, 1.0]), np.array([1.0, 0.0, 0.0, 1.0]))
    (1.0, 0.0)
    """
    usage_spread, null_spread = usage - usage.mean(), null - null.mean()
    if np.allclose(usage_spread, 0):
        return math.nan, math.nan
    if np.allclose(null_spread, 0):
        return math.nan, 1.0
    scale = math.sqrt(float((usage_spread**2).sum() * (null_spread**2).sum()))
    correlation = min(1.0, max(-1.0, float((usage_spread * null_spread).sum()) / scale))
    return round(correlation, 12), round(1 - correlation**2, 12)


def null_share(scores: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """How much of LAC's usage profile, and of its score, the norm-only null (rule ``norm_null``) leaves over.

    Args:
        scores: the scores table, with rows of ``norm_null`` and of LAC at the same effect and alpha.
        comparisons: the comparisons of the same scores.

    Returns:
        A row per (model, task, style, scoring, effect, alpha, phase): ``correlation`` and ``left_over`` of the usage
        by layer (see :func:`profile_left_over`; NaN where the phase has no token), and of LAC less the null the
        ``difference`` in accuracy, ``p_adjusted`` and ``kl_difference``, each with its interval. Without rows of the
        null, empty.
    """
    every = list(conditions(scores))
    lac = {(*(k[c] for c in RUN), k["effect"], k["alpha"]): rows for k, rows, _ in every if k["rule"] == "lac"}
    copied = [f"{name}{end}" for name in ("difference", "kl_difference") for end in ("", "_low", "_high")]
    found = []
    for key, rows, _ in every:
        name = (*(key[column] for column in RUN), key["effect"], key["alpha"])
        if key["rule"] != "norm_null" or name not in lac:
            continue
        ours = lac[name][lac[name]["sample"].isin(rows["sample"])]
        same = (comparisons[[*RUN, "effect", "alpha"]] == list(name)).all(axis=1)
        compared = comparisons[same & (comparisons["against"] == "norm_null")].iloc[0]
        for phase in ("prefill", "decode"):
            usage, null = _profile(ours, phase), _profile(rows, phase)
            correlation, left = math.nan, math.nan
            if usage is not None and null is not None:
                correlation, left = profile_left_over(usage, null)
            row = {**dict(zip([*RUN, "effect", "alpha"], name, strict=True)), "phase": phase}
            row |= {"correlation": correlation, "left_over": left}
            found.append(row | compared[[*copied, "p_adjusted", "why"]].to_dict())
    return pd.DataFrame(found)


def _profile(rows: pd.DataFrame, phase: str) -> np.ndarray | None:
    n = float(rows[f"n_{phase}"].sum())
    return layer_counts(rows, phase) / n if n else None
