"""The parts of a reproduction: which conditions each runs, and the controls that follow from its first part.

``choice``: every alpha and effect, by log-probability. ``generated``: the full model and some alphas, by what they
write. ``controls``: on a subset of the samples, masks matched to what LAC did in the choice part.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from lacscope.reproduction.controls import last_layers, lowest_usage, norm_null
from lacscope.reproduction.sweep._spec import FULL, PROTECTABLE, Condition, ConditionEffect

EFFECTS_SWEPT = ("readout", "bypass")


def swept(alphas: Sequence[float], effects: Sequence[ConditionEffect]) -> tuple[Condition, ...]:
    """The full model; LAC observed, and under each effect, at each alpha."""
    ways: tuple[ConditionEffect, ...] = ("observe", *effects)
    return (FULL, *(Condition(effect, "lac", float(alpha)) for effect in ways for alpha in alphas))


def controlled(
    scores: pd.DataFrame, norms: pd.DataFrame, alphas: Mapping[str, Sequence[float]], seeds: Sequence[int]
) -> tuple[Condition, ...]:
    """The full model, LAC, and the controls that can spend what LAC spends, by effect.

    ``readout`` depends on a token's exit alone: exits permuted over tokens, one constant exit at LAC's mean.
    ``bypass`` is matched to the voids realised in LAC's own bypass run: each token's count on random layers, each
    layer's rate on random tokens (both also with the first and last layer protected), as many layers of the
    lowest usage, as many of the last. Both: the norm-only null, LAC's rule on the median norm curve.

    Args:
        scores, norms: tables of the choice part.
        alphas: the alphas, for each effect, at which it is controlled; those alphas must be in the choice part.
        seeds: the seeds of the random controls.

    Raises:
        ValueError: an alpha that the choice part lacks under that effect.
    """
    curve = median_curve(norms)
    found: list[Condition] = [FULL]
    for effect in EFFECTS_SWEPT:
        for alpha in alphas.get(effect, ()):
            void_by_norm = tuple(int(i) for i in np.flatnonzero(norm_null(curve, alpha)))
            found.append(Condition(effect, "lac", float(alpha)))  # type: ignore[arg-type]
            make = _readout_controls if effect == "readout" else _bypass_controls
            found += make(_of_lac(scores, effect, alpha), float(alpha), seeds)
            found.append(Condition(effect, "norm_null", float(alpha), layers=void_by_norm))  # type: ignore[arg-type]
    return tuple(found)


def _of_lac(scores: pd.DataFrame, effect: str, alpha: float) -> pd.DataFrame:
    rows = scores[(scores["effect"] == effect) & (scores["rule"] == "lac") & np.isclose(scores["alpha"], alpha)]
    if rows.empty:
        have = sorted(scores.loc[scores["effect"] == effect, "alpha"].unique())
        raise ValueError(f"no {effect} at alpha {alpha:g} to match controls to; the choice part has {have}.")
    return rows


def _readout_controls(lac: pd.DataFrame, alpha: float, seeds: Sequence[int]) -> list[Condition]:
    n_layers = len(lac["active_prefill"].iloc[0])
    mean_exit = np.average(lac["exit_prefill"], weights=lac["n_prefill"]) * n_layers
    past_exit = tuple(range(int(np.floor(mean_exit + 0.5)), n_layers))
    permuted = [Condition("readout", "permuted_exits", alpha, seed=seed) for seed in seeds]
    return [*permuted, Condition("readout", "constant_exit", alpha, layers=past_exit)]


def _bypass_controls(lac: pd.DataFrame, alpha: float, seeds: Sequence[int]) -> list[Condition]:
    active = np.stack(lac["active_prefill"].to_list()).sum(0)
    tokens = int(lac["n_prefill"].sum())
    n_void = int(np.floor((1 - active / tokens).sum() + 0.5))
    fixed = {
        "lowest_usage": lowest_usage(xr.DataArray(active / tokens, dims="layer"), n_void),
        "last_layers": last_layers(len(active), n_void),
    }
    drawn = [
        Condition("bypass", rule, alpha, seed=seed, protect=protect)
        for rule in PROTECTABLE
        for protect in (False, True)
        for seed in seeds
    ]
    return [*drawn, *(Condition("bypass", rule, alpha, layers=layers) for rule, layers in fixed.items())]


def median_curve(norms: pd.DataFrame) -> np.ndarray:
    """Median norm curve n_0 .. n_L of the prompts: over samples, of each sample's median over non-sink tokens."""
    prefill = norms[norms["phase"] == "prefill"]
    by_layer = prefill.groupby("layer")[["resid_pre_norm_median", "resid_post_norm_median"]].median().sort_index()
    first = by_layer["resid_pre_norm_median"].to_numpy()[:1]
    return np.concatenate([first, by_layer["resid_post_norm_median"].to_numpy()]).astype(np.float32)
