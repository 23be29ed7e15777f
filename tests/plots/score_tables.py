"""Tables of scores made by hand, small enough to know every number of."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

ALPHAS = (0.0, 0.1, 0.2, 0.5, 0.8, 1.0)
_INTERVALS = {
    "accuracy": 0.06,
    "usage_prefill": 0.02,
    "usage_decode": 0.03,
    "margin": 0.2,
    "kl": 0.0,
    "target_logp": 0.3,
}


def summary_row(effect: str, rule: str, alpha: float, scoring: str = "choice", **values: Any) -> dict[str, Any]:
    """One row of a summary; intervals are symmetric around the values."""
    generated = scoring == "generated"
    row = {
        "model": "tiny", "task": "boolq", "style": "paper", "scoring": scoring, "effect": effect, "rule": rule,
        "alpha": alpha, "protect": False, "n": 200, "seeds": 1, "accuracy": 0.63, "unparseable": 0.1 * generated,
        "agreement": 1.0, "usage_prefill": 1.0, "usage_decode": 1.0 if generated else np.nan, "margin": 0.8, "kl": 0.0,
        "target_logp": -1.9, "scored": 200, "early": 0, "identical": False, "why": "",
    }  # fmt: skip
    row |= values
    row |= {f"usage_{phase}_by_sample": row[f"usage_{phase}"] for phase in ("prefill", "decode")}
    for name, half in _INTERVALS.items():
        row[f"{name}_low"], row[f"{name}_high"] = row[name] - half, row[name] + half
    row["kl_low"], row["kl_high"] = 0.8 * row["kl"], 1.2 * row["kl"]
    return row


def summary_table(model: str = "tiny", alphas: Sequence[float] = ALPHAS, *, generated: bool = True) -> pd.DataFrame:
    """A summary of a whole run: LAC under all effects, generated answers at two alphas, no controls."""
    rows = []
    for scoring in ("choice", "generated") if generated else ("choice",):
        rows.append(summary_row("none", "full", np.nan, scoring))
        for alpha in alphas:
            usage = {"usage_prefill": 0.9 - 0.55 * alpha}
            if scoring == "generated":
                usage["usage_decode"] = 0.95 - 0.4 * alpha
            rows.append(summary_row("observe", "lac", alpha, scoring, **usage))
            if scoring == "choice" or alpha in (alphas[1], alphas[-2]):
                early = alpha >= 0.5
                rows.append(
                    summary_row(
                        "readout",
                        "lac",
                        alpha,
                        scoring,
                        identical=not early,
                        why="" if early else "by construction",
                        accuracy=0.63 - 0.05 * early * alpha,
                        kl=0.3 * alpha * early,
                        margin=0.8 - 0.2 * early,
                        **usage,
                    )
                )
                harmed = {name: value - 0.1 for name, value in usage.items()}
                rows.append(
                    summary_row(
                        "bypass",
                        "lac",
                        alpha,
                        scoring,
                        accuracy=0.6 - 0.2 * alpha,
                        kl=0.02 + 9 * alpha,
                        margin=0.5 - 2 * alpha,
                        target_logp=-2 - 4 * alpha,
                        **harmed,
                        unparseable=(0.1 + 0.6 * alpha) * (scoring == "generated"),
                    )
                )
    return pd.DataFrame(rows).assign(model=model)


def controls_table() -> pd.DataFrame:
    """LAC with its controls under both effects, and the full model; one control is identical to it."""
    rows = [
        summary_row("none", "full", np.nan, n=100),
        summary_row("readout", "lac", 0.8, n=100, accuracy=0.60, margin=0.6),
        summary_row("readout", "permuted_exits", 0.8, n=100, seeds=2, accuracy=0.55, margin=0.3),
        summary_row("readout", "constant_exit", 0.8, n=100, accuracy=0.58, margin=0.2),
        summary_row("readout", "norm_null", 0.8, n=100, identical=True, why="in every answer"),
        summary_row("bypass", "lac", 0.1, n=100, accuracy=0.50, margin=-0.5),
        summary_row("bypass", "random_layers", 0.1, n=100, seeds=2, accuracy=0.45, margin=-1.5),
        summary_row("bypass", "random_layers", 0.1, n=100, seeds=2, accuracy=0.52, margin=-0.4, protect=True),
        summary_row("bypass", "random_tokens", 0.1, n=100, seeds=2, accuracy=0.46, margin=-1.2),
        summary_row("bypass", "random_tokens", 0.1, n=100, seeds=2, accuracy=0.49, margin=-0.8, protect=True),
        summary_row("bypass", "lowest_usage", 0.1, n=100, accuracy=0.41, margin=-2.0),
        summary_row("bypass", "last_layers", 0.1, n=100, accuracy=0.38, margin=-4.0),
        summary_row("bypass", "norm_null", 0.1, n=100, accuracy=0.47, margin=-1.0),
    ]
    return pd.DataFrame(rows)
