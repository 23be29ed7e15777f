"""The depth score: how deep, on average over the layers, what skipping them changes lies."""

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr

from lacscope.model_measures._skip_influence import SOURCE
from lacscope.trace_analyses._statistics import bootstrap_ratio
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import MODEL_ATTRS, Preset, result_attrs

OverSamples = Literal["mean", "max"]
INFLUENCES = ("later layers", "output")
CSORDAS_DEPTH_SCORE = Preset(
    "csordas_2025/depth_score",
    f"{SOURCE}, multi-hop questions: one cut, at the answer's first token",
    {"data": "MQuAKE by hops", "cuts": "given", "cuts_per_prompt": 1},
    read_in="code",
)
CSORDAS_DEPTH_SCORE_MATH = Preset(
    "csordas_2025/depth_score_math",
    f"{SOURCE}, MATH questions: 4 cuts drawn within the answer",
    {"data": "MATH by level", "cuts": "given", "cuts_per_prompt": 4},
    read_in="code",
)
_SAMEWISE = ("model", "influence_on", "unit", "settings")


def depth_score(e: xr.DataArray, dim: str = "skipped") -> xr.DataArray:
    """``sum_l l * e_l / sum_l e_l`` over the layers along ``dim``, in layers; NaN where all e_l are 0.

    Args:
        e: the change that skipping layer l makes, one value a layer, 0 or more; other dimensions stay.
        dim: the dimension of layers, whose coordinate is l.

    Source: Csordás, Manning and Potts 2025 (arXiv 2505.13898), multi-hop questions.

    >>> depth_score(xr.DataArray([0.0, 1.0, 3.0], {"skipped": [0, 1, 2]})).item()
    1.75
    """
    return (e * e[dim]).sum(dim) / e.sum(dim)


def influence_on_later_layers(influence: xr.DataArray) -> xr.DataArray:
    """``e_l = sum_j E[l, j] / max(1, L - 1 - l)``: mean influence of layer l on the layers after it; 0 for the last.

    Args:
        influence: E over (skipped, layer) and any other dimensions; what the layer itself has (layer = skipped) does
            not count.

    Source: Csordás, Manning and Potts 2025 (arXiv 2505.13898), and its code.

    >>> E = xr.DataArray([[np.nan, 1.0, 3.0], [np.nan, np.nan, 5.0], [np.nan] * 3],
    ...                  {"skipped": range(3), "layer": range(3)})
    >>> influence_on_later_layers(E).values.tolist()
    [2.0, 5.0, 0.0]
    """
    later = influence.sizes["layer"] - 1 - influence["skipped"]
    return influence.where(influence["layer"] > influence["skipped"]).sum("layer") / later.clip(min=1)


def depth_scores(
    groups: Mapping[str, xr.Dataset],
    *,
    over_samples: OverSamples = "mean",
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    preset: Preset = CSORDAS_DEPTH_SCORE,
) -> xr.Dataset:
    """The depth score of each group of prompts, such as questions of one hop and of two.

    Args:
        groups: the groups by name, each what :func:`~lacscope.model_measures.future_skip_influence` or its siblings
            return, all with the same model and settings.
        over_samples: e_l is the ``"mean"`` over the group's samples, or the ``"max"``; the authors' code draws both.
        n_resamples, confidence, seed: the number of resamplings, the level of the intervals, and the seed of the
            bootstrap.
        preset: :data:`CSORDAS_DEPTH_SCORE` or :data:`CSORDAS_DEPTH_SCORE_MATH`: whose settings the figure names
            departures from.

    Returns:
        ``score``, ``low`` and ``high`` over (group, measure), in layers; ``measure`` is ``"later layers"`` or
        ``"output"``: which influence of a layer is e_l. ``n_samples`` (group); attribute ``n_layers``. No interval
        (NaN) with ``"max"``, whose bootstrap is not consistent, or with one sample.

    Drawn by :func:`lacscope.plots.plot_depth_scores`.

    Raises:
        ValueError: no groups, an unknown ``over_samples``, groups of different models, depths or settings, or an
            influence that is not finite.

    Source: Csordás, Manning and Potts 2025 (arXiv 2505.13898) and its code: 20 questions a group; the layers are
    skipped before a cut, and what changes from there on is measured. For multi-hop questions the cut is the answer's
    first token. For MATH the authors draw 4 cuts of each prompt within the answer, from every fourth of its tokens
    but the last four. Give either as ``cuts=``: drawn cuts fall in the whole prompt.

    >>> from lacscope.model_measures import future_skip_influence
    >>> from lacscope.testing import tiny_model
    >>> model = tiny_model(n_layers=3)
    >>> hops = {name: future_skip_influence(model, [ids, ids], cuts=[[3], [4]])
    ...         for name, ids in {"1 hop": [5, 17, 3, 60, 8], "2 hops": [8, 44, 9, 61, 7]}.items()}
    >>> depth_scores(hops)["score"].sizes
    Frozen({'group': 2, 'measure': 2})
    """
    first = _check(groups, over_samples)
    _refuse_what_is_not_finite(groups)
    score, low, high = [], [], []
    for found in groups.values():
        measures = (influence_on_later_layers(found["influence"]), found["output_influence"])
        if over_samples == "max":
            measures = (influence_on_later_layers(found["max_influence"]), found["max_output_influence"])
            score.append([depth_score(e).item() for e in measures])
            ends = [(np.nan, np.nan)] * len(measures)
        else:
            score.append([depth_score(e.mean("sample")).item() for e in measures])
            # The score of a mean is a ratio of sums over samples: numerators and denominators are drawn together.
            ends = [
                bootstrap_ratio(
                    (e * e["skipped"]).sum("skipped").values.astype(float),
                    e.sum("skipped").values.astype(float),
                    seed=seed,
                    n=n_resamples,
                    confidence=confidence,
                )
                for e in measures
            ]
        low.append([end[0] for end in ends])
        high.append([end[1] for end in ends])
    numbers = [found.sizes["sample"] for found in groups.values()]
    interval = {"units": "layers", "long_name": f"{confidence:.0%} bootstrap interval over samples"}
    return xr.Dataset(
        {
            "score": (("group", "measure"), np.array(score), {"units": "layers", "long_name": "depth score"}),
            "low": (("group", "measure"), np.array(low), interval),
            "high": (("group", "measure"), np.array(high), interval),
        },
        coords={"group": list(groups), "measure": list(INFLUENCES), "n_samples": ("group", numbers)},
        attrs={
            **_attrs(groups, first, preset, over_samples, n_resamples, confidence, seed),
            "n_layers": first.sizes["skipped"],
            "confidence": confidence,
        },
    )


def _check(groups: Mapping[str, xr.Dataset], over_samples: str) -> xr.Dataset:
    """The first group, once all are known to fit together."""
    if over_samples not in ("mean", "max"):
        raise ValueError(f"over_samples is 'mean' or 'max', got {over_samples!r}.")
    if not groups:
        raise ValueError("groups is empty: give at least one result of future_skip_influence, by name.")
    name, first = next(iter(groups.items()))
    for other, found in groups.items():
        if found.sizes["skipped"] != first.sizes["skipped"]:
            raise ValueError(
                f"groups {name!r} and {other!r} have {first.sizes['skipped']} and {found.sizes['skipped']} layers: "
                "compare groups of one model."
            )
        for key in _SAMEWISE:
            if found.attrs[key] != first.attrs[key]:
                raise ValueError(
                    f"groups {name!r} and {other!r} differ in {key}: {first.attrs[key]!s} and {found.attrs[key]!s}. "
                    "Compare groups measured alike."
                )
    return first


def _refuse_what_is_not_finite(groups: Mapping[str, xr.Dataset]) -> None:
    """A sum over layers would leave NaN out, and so the prompt that overflowed."""
    for name, found in groups.items():
        # Where layer <= skipped nothing is measured, and NaN is right.
        later = found["influence"].where(found["layer"] > found["skipped"], 0.0)
        for values in (later, found["output_influence"]):
            by_sample = values.transpose("sample", ...).values.reshape(values.sizes["sample"], -1)
            bad = values["sample"].values[~np.isfinite(by_sample).all(axis=1)]
            if len(bad):
                raise ValueError(
                    f"group {name!r}: the influence of sample {bad[0]} is not finite. "
                    "Load the model in bfloat16 or float32, or leave that prompt out."
                )


def _attrs(
    groups: Mapping[str, xr.Dataset],
    first: xr.Dataset,
    preset: Preset,
    over_samples: str,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, str | int]:
    named = {name: found.attrs["data"] for name, found in groups.items() if found.attrs["data"]}
    kept = (*MODEL_ATTRS, "influence_on", "unit")
    measured = json.loads(first.attrs["settings"])
    bootstrap = {"n_resamples": n_resamples, "confidence": confidence, "seed": seed}
    return result_attrs(
        "depth_scores",
        {key: first.attrs[key] for key in kept if key in first.attrs},
        preset=preset,
        settings={"over_samples": over_samples, **bootstrap, **_cuts(groups, measured), "influence": measured},
        positions=first.attrs["positions"],
        aggregation=f"max over positions, {over_samples} over prompts",
        n_samples=sum(found.sizes["sample"] for found in groups.values()),
        data="; ".join(f"{name}: {data}" for name, data in named.items()),
    )


def _cuts(groups: Mapping[str, xr.Dataset], measured: Mapping[str, Any]) -> dict[str, str | int]:
    """How prompts were cut, and how often at most; an influence on all tokens has no cuts."""
    most = [int((found["cut"] >= 0).sum("draw").max()) for found in groups.values() if "cut" in found]
    return {"cuts": measured.get("cuts", "none"), "cuts_per_prompt": max(most, default=0)}


DEPTH_SCORES = Measure(
    depth_scores,
    "depth score",
    "how deep what skipping layers changes in the answer lies, by group of questions",
    plot="plot_depth_scores",
    needs="questions",
    papers=(CSORDAS_DEPTH_SCORE, CSORDAS_DEPTH_SCORE_MATH),
    group="depth",
    command="depth-score",
)
