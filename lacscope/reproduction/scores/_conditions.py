"""The rows of one condition: what makes it, which samples it shares with the full model, whether it differs at all."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

RUN = ["model", "task", "style", "scoring"]
CONDITION = [*RUN, "effect", "rule", "alpha", "protect"]
SAME_NATS = 1e-4
"""Log-probabilities this close are the same: float32 rounds a logit by 4e-5 where a batch is padded otherwise."""

_NEEDED = [
    *(*CONDITION, "seed", "sample", "group", "target", "picked", "correct", "unparseable", "choice_logp", "text"),
    *("target_logp", "target_tokens", "margin", "kl_to_full", "agrees", "scored", "early", "n_sink", "active_sink"),
    *(f"{name}_{phase}" for phase in ("prefill", "decode") for name in ("n", "active", "exit", "skippable")),
]


def conditions(scores: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """Each condition's key, its rows (samples that all its seeds share), and the full model's rows of those samples.

    Raises:
        ValueError: the reasons of :func:`summarise`.
    """
    _check(scores)
    for _, run in scores.groupby(RUN, sort=False):
        full = run[run["effect"] == "none"]
        if full.empty:
            names = ", ".join(f"{column} {run[column].iloc[0]!r}" for column in RUN)
            raise ValueError(f"no row of the full model (effect 'none') for {names}: nothing to compare with.")
        for key, found in run.groupby(CONDITION, sort=False, dropna=False):
            shared = found.groupby("sample")["seed"].transform("size") == found["seed"].nunique()
            rows = found[shared & found["sample"].isin(full["sample"])]
            yield dict(zip(CONDITION, key, strict=True)), rows, full[full["sample"].isin(rows["sample"])]


def by_seed(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """A number of one condition's rows as (seed, sample), without the samples that have no value.

    Every seed has the same samples, as :func:`conditions` gives them.
    """
    ordered = rows.sort_values(["seed", "sample"])
    seeds, samples = ordered["seed"].unique(), ordered["sample"].unique()
    # Not DataFrame.pivot: it takes ten times as long, and this runs for every outcome of every condition.
    values = ordered[column].to_numpy(float).reshape(len(seeds), len(samples))
    known = ~np.isnan(values).any(0)
    return pd.DataFrame(values[:, known], index=seeds, columns=samples[known])


def groups_of(rows: pd.DataFrame, samples: pd.Index) -> list[str] | None:
    """The samples' groups, None where the task has none."""
    if not (rows["group"] != "").any():
        return None
    return rows.drop_duplicates("sample").set_index("sample")["group"].loc[samples].tolist()


def identical_to_full(rows: pd.DataFrame, full: pd.DataFrame) -> str:
    """Why a condition's answers are the full model's: "by construction", "in every answer", or "" where they are not.

    By construction: observed; ``readout`` where no scored position exits early; ``bypass`` without a void. In every
    answer: the same choice with the same log-probabilities, or the same generated text, in every sample. A private
    task keeps no text, and equal choices alone are no proof.
    """
    effect = rows["effect"].iloc[0] if len(rows) else "none"
    if effect == "none":
        return ""
    if effect == "observe" or (effect == "readout" and not rows["early"].any()):
        return "by construction"
    if effect == "bypass" and all(_all_active(rows, phase) for phase in ("prefill", "decode")):
        return "by construction"
    reference = full.set_index("sample").loc[rows["sample"]]
    if (rows["picked"].to_numpy() != reference["picked"].to_numpy()).any():
        return ""
    if rows["scoring"].iloc[0] == "generated":
        same = bool(rows["text"].any()) and (rows["text"].to_numpy() == reference["text"].to_numpy()).all()
    else:
        pairs = zip(rows["choice_logp"], reference["choice_logp"], strict=True)
        same = all(len(a) > 0 and np.allclose(a, b, rtol=0, atol=SAME_NATS) for a, b in pairs)
    return "in every answer" if same else ""


def _check(scores: pd.DataFrame) -> None:
    missing = [column for column in _NEEDED if column not in scores.columns]
    if missing:
        raise ValueError(f"the scores lack {', '.join(missing)}; they have {', '.join(map(str, scores.columns))}.")
    twice = scores.duplicated([*CONDITION, "seed", "sample"])
    if twice.any():
        first = scores[twice].iloc[0]
        key = ", ".join(f"{column} {first[column]}" for column in [*CONDITION, "seed", "sample"])
        raise ValueError(f"{int(twice.sum())} rows stand twice, the first with {key}: join each part of a run once.")


def _all_active(rows: pd.DataFrame, phase: str) -> bool:
    return bool((np.stack(rows[f"active_{phase}"].to_list()) == rows[f"n_{phase}"].to_numpy()[:, None]).all())
