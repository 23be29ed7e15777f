"""ZD, z-score distribution (layer-wise quantization): the share of a layer's weights far from their mean. No data."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from lacscope.guards._arguments import one_of
from lacscope.model_measures._importance_results import labelled
from lacscope.models._checks import check_blocks
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter
from lacscope.models.adapters._weights import layer_of, matrices
from lacscope.traces._measure import Measure, Ranking
from lacscope.traces._provenance import Preset, result_attrs

ZDVariant = Literal["code", "paper"]
_VARIANTS = {
    "code": "share of |z| > 1, mean over matrices",
    "paper": "share of z > 1 among all weights",
}
_PAPER = "Layer-Wise Quantization, Dumitru et al. 2024, arXiv 2406.17415, section 3.1 (ZD)"
DUMITRU_ZD = Preset("dumitru_2024/z_density", _PAPER, {"variant": "code"}, read_in="code")


def z_density(model: Model, *, variant: ZDVariant = "code") -> xr.Dataset:
    """Share of a layer's weights more than one standard deviation from their mean.

    Gaussian weights give 0.3173 (two-sided) or 0.1587 (one-sided). A few large outliers widen the standard deviation
    and lower the share. The paper ranks the smaller share as more important ("smaller is better").

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``. No data are read.
        variant: ``"code"``, as published: ``|z| > 1``, z within each matrix, mean over the layer's matrices;
            ``"paper"``: z > 1, z among all the layer's weights.

    Returns:
        Dataset over (layer): ``z_density``, in [0, 1], and ``importance``, its negative, larger = more important.
        Weights are the parameters with two or more axes inside a block; the attribute ``matrices`` is a JSON
        object of their names and how many layers have each. A constant matrix has share 0.

    Drawn by :func:`lacscope.plots.plot_importance`.

    Raises:
        ValueError: an unknown variant, or a layer without matrices.
        UnsupportedModelError: the matrices are packed (GPTQ, AWQ, float8). Those of bitsandbytes, torchao and quanto
            are dequantised.

    Source: Dumitru et al. 2024 (arXiv 2406.17415), ZD.

    >>> from lacscope.testing import tiny_model
    >>> found = z_density(tiny_model(n_layers=2))
    >>> bool((abs(found.z_density - 0.3173) < 0.03).all())  # its weights are Gaussian
    True
    """
    one_of("variant", variant, _VARIANTS)
    adapter = check_blocks(model)
    density = _matrix_mean if variant == "code" else _whole_layer
    shares = np.empty(adapter.n_layers)
    names: Counter[str] = Counter()
    for layer in range(adapter.n_layers):
        found = _matrices(adapter, layer)
        shares[layer] = density([weight.detach() for weight in found.values()])
        names.update(list(found))
    words = _VARIANTS[variant]
    return labelled(
        {
            "z_density": (("layer",), shares, words, "1"),
            "importance": (("layer",), -shares, f"- ({words})", "1"),
        },
        {"layer": np.arange(adapter.n_layers)},
        importance="importance",
        attrs={
            **result_attrs(
                "z_density",
                model_attrs(adapter),
                preset=DUMITRU_ZD,
                settings={"variant": variant},
                positions="weights, no tokens",
                aggregation=words,
                n_samples=0,
                data="no data read",
            ),
            "matrices": json.dumps(names),
        },
    )


def _matrices(adapter: Adapter, layer: int) -> dict[str, Tensor]:
    """A layer's weight matrices by name, dequantised, the same whether or not hook points stand between its modules."""
    found = matrices(layer_of(adapter.model, layer))
    if not found:
        raise ValueError(
            f"layer {layer} of {adapter.name} has no parameter with two or more axes: it has no z-density."
        )
    return found


def _matrix_mean(weights: Sequence[Float[Tensor, "..."]]) -> float:
    shares = []
    for weight in weights:
        std, mean = torch.std_mean(weight.float())
        shares.append(float(((weight.float() - mean).abs() > std).float().mean()) if std > 0 else 0.0)
    return float(np.mean(shares))


def _whole_layer(weights: Sequence[Float[Tensor, "..."]]) -> float:
    sizes = np.array([weight.numel() for weight in weights])
    moments = [torch.var_mean(weight.float(), correction=0) for weight in weights]
    variances, means = (np.array([float(one) for one in column]) for column in zip(*moments, strict=True))
    mean = np.average(means, weights=sizes)
    std = np.sqrt(np.average(variances + (means - mean) ** 2, weights=sizes))
    return sum(int((weight.float() > mean + std).sum()) for weight in weights) / int(sizes.sum()) if std > 0 else 0.0


Z_DENSITY = Measure(
    z_density,
    "ZD",
    "share of a layer's weights far from their mean (no data)",
    plot="plot_importance",
    needs="weights",
    parts="all",
    rankings={"ZD": Ranking("z_density", important="smaller")},
    papers=(DUMITRU_ZD,),
    group="importance",
    command="zd",
)
