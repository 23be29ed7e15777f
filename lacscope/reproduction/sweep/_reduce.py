"""A trace reduced to one row per sample: what a sweep keeps of it, whatever its length."""

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int

from lacscope.trace_analyses._depth import skippable_compute
from lacscope.trace_analyses._usage import token_usage
from lacscope.traces._schema import PHASES, cost_of
from lacscope.traces._voids import resolve_voids

Columns = dict[str, list[object]]


def usage_columns(trace: xr.Dataset, void: xr.DataArray, effect: str) -> Columns:
    """Tokens read and active layers, by phase and over sinks; exit depth and skippable compute apart.

    Counts are kept by layer, so that any usage, pooled or per sample, can be had from them.
    """
    valid = trace["valid"].values
    void = resolve_voids(trace, void)
    active = ~void.transpose("sample", "layer", "token").values & valid[:, None]
    groups = {phase: valid & (trace["phase"].values == phase) for phase in PHASES}
    groups["sink"] = trace["sink"].values & groups["prefill"]
    columns: Columns = {}
    for name, group in groups.items():
        columns[f"n_{name}"] = list(group.sum(-1).astype(np.int32))
        columns[f"active_{name}"] = list((active & group[:, None]).sum(-1).astype(np.int32))
    exits = token_usage(trace, void)["exit_depth"].values
    spared = None if cost_of(trace) is None else skippable_compute(trace, void, by="sample")
    bound = "readout" if effect == "readout" else "bypass"
    for phase in PHASES:
        columns[f"exit_{phase}"] = list(_mean_over(exits, groups[phase]))
        share = np.full(len(valid), np.nan) if spared is None else spared.sel(effect=bound, phase=phase).values
        columns[f"skippable_{phase}"] = list(share.astype(float))
    return columns


def _mean_over(values: Float[np.ndarray, "sample token"], group: Bool[np.ndarray, "sample token"]) -> np.ndarray:
    n = group.sum(-1)
    total = np.where(group, values, 0.0).sum(-1)
    return np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)


def scored_positions(trace: xr.Dataset) -> Bool[np.ndarray, "sample token"]:
    """Where logits are scored: from the prompt's last token on, each that a token of the answer comes from.

    The last token of a given answer is read, and nothing is asked of its logits.
    """
    valid = trace["valid"].values
    n_prompt = (valid & (trace["phase"].values == "prefill")).sum(-1)
    end = valid.sum(-1)
    if trace.attrs["response"] == "given":
        end = end - 1
    position = np.arange(valid.shape[1])
    return (position >= n_prompt[:, None] - 1) & (position < end[:, None])


def early_exits(void: xr.DataArray, scored: Bool[np.ndarray, "sample token"]) -> Int[np.ndarray, " sample"]:
    """How many scored positions exit before the last block: a readout changes these alone."""
    last = void.transpose("sample", "layer", "token").values[:, -1]
    return ((last == 1) & scored).sum(-1)


def norm_rows(trace: xr.Dataset) -> pd.DataFrame:
    """Means and medians of the norms over a sample's tokens that are not sinks, by phase and layer.

    Columns: sample, phase, layer, n, and ``{resid_post_norm,delta_norm}_{mean,median}``, ``resid_pre_norm_median``
    (float32, units of the stream). A phase without tokens has no row.
    """
    counted = trace["valid"].values & ~trace["sink"].values
    rows = []
    for phase in PHASES:
        group = counted & (trace["phase"].values == phase)
        for index in np.flatnonzero(group.any(-1)):
            picked = {
                name: trace[name].transpose("sample", "layer", "token").values[index][:, group[index]]
                for name in ("resid_pre_norm", "resid_post_norm", "delta_norm")
            }
            rows.append(
                pd.DataFrame(
                    {
                        "sample": int(trace["sample"].values[index]),
                        "phase": phase,
                        "layer": trace["layer"].values.astype(np.int32),
                        "n": int(group[index].sum()),
                        "resid_post_norm_mean": picked["resid_post_norm"].mean(-1),
                        "resid_post_norm_median": np.median(picked["resid_post_norm"], axis=-1),
                        "delta_norm_mean": picked["delta_norm"].mean(-1),
                        "delta_norm_median": np.median(picked["delta_norm"], axis=-1),
                        "resid_pre_norm_median": np.median(picked["resid_pre_norm"], axis=-1),
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)
