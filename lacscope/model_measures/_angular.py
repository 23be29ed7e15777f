"""Angular distance across n layers (the ineffectiveness of the deeper layers; the Curse of Depth)."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from lacscope.guards._arguments import made_by
from lacscope.model_measures._angles import angle
from lacscope.model_measures._importance_results import each_sample, labelled
from lacscope.model_measures._last_state import LastState, check_last_state, states_of
from lacscope.model_measures._residuals import Residuals
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.traces._measure import Measure, Ranking
from lacscope.traces._provenance import Preset, Progress, result_attrs

GROMOV_ANGULAR = Preset(
    "gromov_2024/angular_distance",
    "The Unreasonable Ineffectiveness of the Deeper Layers, Gromov et al. 2024, arXiv 2403.17887, section 3.2",
    {"data": "C4 validation", "max_tokens": None, "last_state": "raw"},
)
CURSE_ANGULAR = Preset(
    "sun_2025/angular_distance",
    "The Curse of Depth in Large Language Models, Sun et al. 2025, arXiv 2502.05795",
    {"data": "C4 validation", "samples": 3, "max_tokens": 256, "last_state": "normed"},
    read_in="code",
)
_LOW, _HIGH = 1.0, 99.0


def angular_distance(
    model: Model,
    inputs: Any,
    *,
    last_state: LastState = "raw",
    max_tokens: int | None = None,
    data: str = "",
    preset: Preset = GROMOV_ANGULAR,
    progress: Progress | None = None,
) -> xr.Dataset:
    """d(l, n) = arccos(cos(h_l, h_{l+n})) / pi at the last token: how far the n layers from l on turn the stream.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        last_state: ``"raw"``: h_L as it leaves the last block; ``"normed"``: after the model's final norm, as code that
            reads transformers' ``hidden_states`` has it. Only what touches h_L changes.
        max_tokens: the number of tokens that are read of each prompt, from its first; the last of those is measured.
        data: the name of the prompts, for the figure.
        preset: :data:`GROMOV_ANGULAR` or :data:`CURSE_ANGULAR`: whose settings the figure names departures from.
        progress: a function that is called with (prompts read, prompts).

    Returns:
        Dataset over layer l = 0..L-1 and n = 1..L, distances in [0, 1] (1: opposite), NaN where l + n > L:
        ``distance`` (sample, layer, n); ``mean_distance`` (n, layer), its mean over samples; ``first_to_drop`` (n),
        the l whose block of n layers turns the stream least, the one to drop (the shallower of equals);
        ``scaled_distance`` (n, layer), each row of ``mean_distance`` clipped to its 1st to 99th percentile and
        scaled to [0, 1], as in the Curse of Depth's figure (0 in a row of equals); and ``importance`` (sample,
        layer) = d(l, 1), larger = more important.

    Drawn by :func:`lacscope.plots.plot_angular_distance`.

    Raises:
        InputError: inputs that cannot be read.
        ValueError: an unknown ``last_state``.
        UnsupportedModelError: ``"normed"`` of a model whose final norm is not known.

    Source: Gromov et al. 2024 (arXiv 2403.17887); presentation: Sun et al. 2025 (arXiv 2502.05795). The latter's
    published code pads prompts to 256 tokens and reads the last column, a pad in shorter ones, takes the last state
    after the final norm, and has zeros in its percentiles for l + n > L. Here it is the last real token, and
    l + n <= L alone. Gromov et al. published no code; PruneMe, a public one, takes the last state after the final
    norm (``last_state="normed"``, which changes the blocks that end at L) and never proposes to drop from layer 0
    on; the public short-transformers has the raw state.

    >>> from lacscope.testing import tiny_model
    >>> found = angular_distance(tiny_model(n_layers=3), [5, 17, 3])
    >>> found.first_to_drop.sizes["n"], bool(np.isnan(found.mean_distance.sel(n=3, layer=1)))
    (3, True)
    """

    made_by("preset", preset, Preset, "GROMOV_ANGULAR")
    check_last_state(model, last_state)

    def measure(read: Residuals) -> dict[str, Any]:
        last = states_of(model, read.stream[:, -1:], last_state)[:, 0]
        distances = torch.full((read.n_layers, read.n_layers), torch.nan)
        for n in range(1, read.n_layers + 1):
            distances[: read.n_layers + 1 - n, n - 1] = angle(last[:-n], last[n:]).cpu() / torch.pi
        return {"distance": distances}

    adapter, found = each_sample(model, inputs, measure, max_tokens=max_tokens, progress=progress)
    distance = found["distance"]
    mean = distance.mean(axis=0).T
    layers = np.arange(adapter.n_layers)
    return labelled(
        {
            "distance": (("sample", "layer", "n"), distance, "angular distance of h_l and h_l+n", "share of pi"),
            "mean_distance": (("n", "layer"), mean, "mean angular distance of h_l and h_l+n", "share of pi"),
            "scaled_distance": (("n", "layer"), scaled_rows(mean), "angular distance, rows clipped and scaled", "1"),
            "first_to_drop": (("n",), np.nanargmin(mean, axis=1), "first layer of the block to drop", "layer"),
            "importance": (("sample", "layer"), distance[:, :, 0], "angular distance of h_l and h_l+1", "share of pi"),
        },
        {"sample": np.arange(len(distance)), "layer": layers, "n": layers + 1},
        importance="importance",
        attrs=result_attrs(
            "angular_distance",
            model_attrs(adapter),
            preset=preset,
            settings={"last_state": last_state, "max_tokens": max_tokens},
            positions="last token",
            aggregation="mean over samples",
            n_samples=len(distance),
            data=data,
        ),
    )


def scaled_rows(values: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row column"]:
    """Each row clipped to its 1st to 99th percentile and scaled to [0, 1]; NaN stays, a row of equals is 0.

    >>> scaled_rows(np.array([[1.0, 3.0, 2.0, np.nan], [4.0, 4.0, 4.0, 4.0]]))
    array([[0. , 1. , 0.5, nan],
           [0. , 0. , 0. , 0. ]])
    """
    low, high = np.nanpercentile(values, [_LOW, _HIGH], axis=1, keepdims=True)
    clipped = np.clip(values, low, high) - low
    span = high - low
    return clipped / np.where(span > 0, span, 1.0)


ANGULAR_DISTANCE = Measure(
    angular_distance,
    "angular distance",
    "angular distance over every stretch of layers",
    plot="plot_angular_distance",
    parts="all",
    rankings={"angular distance": Ranking("importance")},
    papers=(GROMOV_ANGULAR, CURSE_ANGULAR),
    group="importance",
    command="angular",
)
