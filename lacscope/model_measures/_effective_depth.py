"""Effective depth: at which layer a model turns from composing to refining its prediction, as one number.

Each criterion takes one curve over layers, a mean over tokens of a cosine or of the logit lens, and gives a layer;
:func:`effective_depths` puts the three side by side. Source: the published code of Hu, Zhou and Zhang 2025
(arXiv 2512.14064, github.com/AheadOFpotato/what_affects_effective_depth), which follows Csordás, Manning and Potts
2025. The criteria are coarse: a curve that dips early gives an early layer.

That code pools the tokens of all prompts (:func:`~lacscope.model_measures.pool_tokens`), of 10 prompts of GSM8K,
HellaSwag or AIME 2024 (of AIME 5); the mean of the prompts can give another layer.

Two departures from that code. For the KL and the overlap it leaves out the last layer; here that layer counts. And
where no layer meets a criterion it gives -1, a depth of 0 (for the cosine it fails); here that is NaN.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from lacscope.model_measures._csordas_prompts import CSORDAS_PROMPT_FORMAT
from lacscope.model_measures._pooling import POOLED
from lacscope.tasks._gsm8k import CSORDAS
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import MODEL_ATTRS, Preset, result_attrs

CRITERIA = ("cosine", "kl", "overlap")
HU_EFFECTIVE_DEPTH = Preset(
    "hu_2025/effective_depth",
    "What Affects the Effective Depth of Large Language Models?, Hu, Zhou and Zhang 2025, arXiv 2512.14064, its code",
    {
        "data": "GSM8K",
        "prompt_format": CSORDAS_PROMPT_FORMAT,
        "samples": 10,
        "aggregation": POOLED,
        "share": 0.5,
        "threshold": 0.3,
        "last_layer": "left out",
        "if_none_meets": "-1",
    },
    read_in="code",
)
_OURS = {"last_layer": "counts", "if_none_meets": "NaN"}
_LONG_NAMES = {"layer": "effective depth", "depth": "effective depth, share of the layers"}
_NO_ATTRS: Mapping[str, Any] = MappingProxyType({})


def last_sign_change(cosine: xr.DataArray) -> float:
    """The last layer l with a negative cosine at l and one of 0 or more at l + 1; NaN where there is none.

    Args:
        cosine: mean cosine between the updates and the stream, by layer. The published code first averages the
            cosines of the attention, of the MLP and of both together.

    Raises:
        ValueError: more than one dimension, or a NaN.

    >>> last_sign_change(xr.DataArray([0.5, -0.1, 0.2, -0.3, 0.4], dims="layer"))
    3.0
    """
    values, layers = _curve(cosine, "cosine")
    return _layer(layers[:-1], (values[:-1] < 0) & (values[1:] >= 0), last=True)


def first_low_kl(kl: xr.DataArray, share: float = 0.5) -> float:
    """The first layer whose logit lens is nearer the output than ``share`` of the largest KL; NaN if none is.

    The last layer counts; the published code leaves it out, and gives -1 if none is.

    Args:
        kl: mean KL(p_l || p_out) of what enters each layer, in nats. Leave out what leaves the last one: its KL is 0.
        share: the part of the curve's maximum that counts; the published code uses 0.5.

    Raises:
        ValueError: more than one dimension, or a NaN.

    >>> first_low_kl(xr.DataArray([8.0, 9.0, 5.0, 4.0, 1.0], dims="layer"))
    3.0
    """
    values, layers = _curve(kl, "kl")
    return _layer(layers, values < share * values.max())


def first_high_overlap(overlap: xr.DataArray, threshold: float = 0.3) -> float:
    """The first layer whose top-5 overlap with the output is above ``threshold``; NaN if none is.

    The last layer counts; the published code leaves it out, and gives -1 if none is.

    Args:
        overlap: mean share, 0 to 1, of the output's five likeliest tokens among those of the logit lens of what
            enters each layer. Leave out what leaves the last one: its overlap is 1.
        threshold: the published code uses 0.3.

    Raises:
        ValueError: more than one dimension, or a NaN.

    >>> first_high_overlap(xr.DataArray([0.0, 0.1, 0.3, 0.5], dims="layer"))
    3.0
    """
    values, layers = _curve(overlap, "overlap")
    return _layer(layers, values > threshold)


def effective_depths(
    cosine: xr.DataArray,
    kl: xr.DataArray,
    overlap: xr.DataArray,
    *,
    share: float = 0.5,
    threshold: float = 0.3,
    attrs: Mapping[str, Any] = _NO_ATTRS,
) -> xr.Dataset:
    """The three criteria of one model: ``layer``, and ``depth`` = (layer + 1) / L, over ``criterion``.

    Departures from the published code: the last layer counts, and NaN stands where no layer meets a criterion.

    Args:
        cosine, kl, overlap: one value for each of the L layers, as in :func:`last_sign_change`,
            :func:`first_low_kl` and :func:`first_high_overlap`. Of L + 1 states give the first L.
        share, threshold: the limits of the KL and of the overlap.
        attrs: attributes of the Dataset that the curves are means of (``pool_tokens(lens).attrs`` of
            :func:`~lacscope.model_measures.logit_lens`): what says of the model, the data, the prompts' form, the
            positions, the aggregation and the number of prompts is taken over. Without them the figure cannot name
            these.

    Returns:
        NaN for a criterion that no layer meets. Attributes of :func:`lacscope.traces.result_attrs`, and ``n_layers``.

    Drawn by :func:`lacscope.plots.plot_effective_depths`.

    Raises:
        ValueError: curves of different lengths, with more than one dimension, or with a NaN.

    >>> cosine = xr.DataArray([0.5, -0.1, 0.2, 0.4], dims="layer")
    >>> kl, overlap = xr.DataArray([8.0, 9.0, 5.0, 4.0], dims="layer"), xr.DataArray([0.0, 0.1, 0.2, 0.2], dims="layer")
    >>> effective_depths(cosine, kl, overlap)["depth"].values.tolist()
    [0.5, 1.0, nan]
    """
    if not cosine.size == kl.size == overlap.size:
        raise ValueError(
            f"cosine, kl and overlap have {cosine.size}, {kl.size} and {overlap.size} values: give one for each "
            "layer; of the L + 1 states of a logit lens leave out the last."
        )
    aggregation = str(attrs.get("aggregation", ""))
    found = [last_sign_change(cosine), first_low_kl(kl, share), first_high_overlap(overlap, threshold)]
    layer = xr.DataArray(found, {"criterion": list(CRITERIA)}, "criterion")
    ds = xr.Dataset({"layer": layer, "depth": (layer + 1) / cosine.size})
    for name, units in (("layer", "layer"), ("depth", "1")):
        ds[name].attrs = {"long_name": _LONG_NAMES[name], "units": units}
    ds.attrs = result_attrs(
        "effective_depths",
        {"model": "model not named", **{key: attrs[key] for key in MODEL_ATTRS if key in attrs}},
        preset=HU_EFFECTIVE_DEPTH,
        settings={
            "share": share,
            "threshold": threshold,
            "prompt_format": json.loads(str(attrs.get("settings", "{}"))).get("prompt_format", ""),
            "aggregation": aggregation,
            **_OURS,
        },
        positions=str(attrs.get("positions", "positions not named")),
        aggregation=f"one layer of the mean curve, {aggregation or 'of what is not named'}",
        n_samples=int(attrs.get("n_samples", 0)),
        data=str(attrs.get("data", "")),
    )
    return ds.assign_attrs(n_layers=cosine.size)


def _curve(curve: xr.DataArray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Its values, and the layers that they belong to."""
    if curve.ndim != 1:
        raise ValueError(
            f"'{name}' has dimensions ({', '.join(map(str, curve.dims))}); it takes one value a layer: average over "
            f"the others, for instance {name}.mean('sample')."
        )
    if bool(curve.isnull().any()):
        raise ValueError(f"'{name}' is NaN at {int(curve.isnull().sum())} of {curve.size} layers.")
    return curve.values, curve[curve.dims[0]].values


def _layer(layers: np.ndarray, met: np.ndarray, *, last: bool = False) -> float:
    where = layers[met]
    return float(where[-1 if last else 0]) if where.size else float("nan")


EFFECTIVE_DEPTHS = Measure(
    effective_depths,
    "effective depth",
    "the layer at which the model turns to its answer, by three criteria",
    plot="plot_effective_depths",
    papers=(HU_EFFECTIVE_DEPTH,),
    group="depth",
    command="effective-depth",
    style=CSORDAS,
    fixed={"aggregation": POOLED},
)
