"""Geometry of layer updates: what a map of each token alone explains of a layer, and where the rest points."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from lacscope.guards._arguments import is_real
from lacscope.model_measures._angles import angle
from lacscope.model_measures._importance_results import labelled
from lacscope.model_measures._positions import kept_tokens, positions_in_words
from lacscope.model_measures._residuals import Residuals, read_residuals, rerun
from lacscope.model_measures._tokenwise import Family, Moments, TokenMap, fit
from lacscope.models._checks import check_blocks
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter, without_gradients
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import Preset, Progress, result_attrs
from lacscope.tracing._inputs import read_inputs

YOO_UPDATES = Preset(
    "yoo_2026/layer_updates",
    "On the Geometric Structure of Layer Updates in Deep Language Models, Yoo 2026, arXiv 2604.02459",
    {"fit": "per token, on its nearest neighbours"},
    read_in="paper",
)
_FIT = "per layer, on calibration tokens"
_BY_SAMPLE = {
    "r2": ("share of h_l+1's variance that T explains", "1"),
    "r2_update": ("share of the update's variance that T explains", "1"),
    "cos_update": ("cosine of the update with T(h) - h", "1"),
    "cos_residual": ("cosine of the residual with T(h) - h", "1"),
    "angle_update": ("angle of the update to T(h) - h", "degrees"),
    "angle_residual": ("angle of the residual to T(h) - h", "degrees"),
    "projection_update": ("share of the update's norm in T's leading directions", "1"),
    "projection_residual": ("share of the residual's norm in T's leading directions", "1"),
    "error": ("||r|| / ||h_l+1||", "1"),
    "output_change": ("KL to the output with T(h) in h_l+1's place", "nats"),
}
_BY_TOKEN = ("error", "output_change")


def update_geometry(
    model: Model,
    inputs: Any,
    *,
    calibration: Any,
    family: Family = "low_rank",
    rank: int = 8,
    penalty: float = 1e-3,
    directions: int = 8,
    exclude_sinks: bool = True,
    max_tokens: int | None = None,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """h_{l+1} = T(h_l) + r: T a linear map of each token alone, fitted per layer; r what it leaves.

    T(h) = h + h B without intercept, B diagonal or of low rank: it is the update that the map explains, since a T of
    rank 8 could not even pass the stream on. All else is measured on held-out tokens, those of ``inputs``.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the held-out prompts, as :func:`lacscope.trace` takes them.
        calibration: the prompts that T is fitted on, of the same kinds. With ``low_rank`` give many more tokens than
            ``rank``, best more than d_model.
        family: ``"diagonal"``, or ``"low_rank"``: ridge with B of rank ``rank`` at most (8 or 64 in the paper).
        rank: the rank of B; of no account for ``"diagonal"``.
        penalty: the ridge penalty, as a share of the mean power of an entry of h_l over the calibration tokens.
        directions: the number of principal directions of h B that span the subspace of ``projection_*``; with
            ``low_rank`` no more than ``rank``, as h B has none beyond. ``settings`` holds the number used.
        exclude_sinks: True to leave sinks out of the fit, the means and the exchange of h_{l+1}.
        max_tokens: the number of tokens that are read of each prompt, from its first, held-out or not.
        data: the name of the prompts, for the figure.
        progress: a function that is called with (layers done, layers), over all held-out prompts.

    Returns:
        Dataset over (sample, layer): ``r2`` of h_{l+1} and ``r2_update`` of the update, 1 - squared error over squared
        distance to the calibration mean; token means of ``cos_*`` (in [-1, 1]), ``angle_*`` (degrees) and
        ``projection_*`` (in [0, 1]) of the whole update and of the residual r against T(h) - h (a vector of zeros is
        at 90 degrees); ``error``, ||r|| / ||h_{l+1}||, larger = more important; ``output_change``, the KL in nats from
        the model's output to that with T(h_l) in h_{l+1}'s place at all counted tokens. The last two by token too, as
        ``token_error`` and ``token_output_change`` (sample, layer, token), NaN beyond a prompt and at sinks; and
        ``spearman`` (layer), their rank correlation over all tokens, NaN where one of them is constant.

    Drawn by :func:`lacscope.plots.plot_update_geometry`.

    Raises:
        InputError: prompts that cannot be read.
        ValueError: a family, rank, number of directions or penalty that cannot be, or calibration prompts without
            a token that counts.

    Source: Yoo 2026 (arXiv 2604.02459), which fits T to the nearest neighbours of each token; here it is one T a layer.

    >>> from lacscope.testing import tiny_model
    >>> prompts = [[5, 17, 3, 60, 8, 44], [9, 2, 71, 30, 12]]
    >>> found = update_geometry(tiny_model(n_layers=2), prompts[:1], calibration=prompts, family="diagonal")
    >>> found.r2.dims, found.token_error.dims
    (('sample', 'layer'), ('sample', 'layer', 'token'))
    """
    adapter = check_blocks(model)
    _check(adapter, family, rank, penalty, directions)
    if family == "low_rank":
        directions = min(directions, rank)
    moments = _calibrated(adapter, calibration, exclude_sinks, max_tokens)
    maps = [fit(moments, layer, family, rank, penalty, directions) for layer in range(adapter.n_layers)]
    rows = read_inputs(adapter, inputs)
    samples = []
    for index, read in enumerate(read_residuals(model, rows, logits=True, max_tokens=max_tokens)):
        kept = kept_tokens(read, exclude_sinks)
        layers = []
        for layer, token_map in enumerate(maps):
            layers.append(_layer(model, read, layer, token_map, kept, moments))
            if progress is not None:
                progress(index * adapter.n_layers + layer + 1, len(rows) * adapter.n_layers)
        samples.append((kept.cpu().numpy(), layers))
    settings = {
        "family": family,
        **({"rank": rank} if family == "low_rank" else {}),
        "penalty": penalty,
        "directions": directions,
        "exclude_sinks": exclude_sinks,
        "max_tokens": max_tokens,
        "calibration_tokens": moments.n_tokens,
        "fit": _FIT,
    }
    attrs = result_attrs(
        "update_geometry",
        model_attrs(adapter),
        preset=YOO_UPDATES,
        settings=settings,
        positions=positions_in_words(exclude_sinks),
        aggregation="mean over held-out tokens, per sample",
        n_samples=len(samples),
        data=data,
    )
    shape = f"of rank {rank}" if family == "low_rank" else "diagonal"
    return _dataset(samples, {**attrs, "map": f"1 + B, B {shape}"})


def _check(adapter: Adapter, family: str, rank: int, penalty: float, directions: int) -> None:
    if family not in ("diagonal", "low_rank"):
        raise ValueError(f"family must be 'diagonal' or 'low_rank', got {family!r}.")
    d_model = int(adapter.model.cfg.d_model)
    for name, value in (("rank", rank), ("directions", directions)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or not 1 <= value <= d_model:
            raise ValueError(f"{name} must be 1 to d_model = {d_model} of {adapter.name}, got {value}.")
    if not is_real(penalty) or not penalty > 0:
        raise ValueError(f"penalty must be above 0, got {penalty}: without it fewer tokens than d_model fit anything.")


def _calibrated(adapter: Adapter, calibration: Any, exclude_sinks: bool, max_tokens: int | None) -> Moments:
    moments = Moments(adapter.n_layers, int(adapter.model.cfg.d_model))
    for read in read_residuals(adapter.model, calibration, max_tokens=max_tokens):
        moments.add(read.stream[:, kept_tokens(read, exclude_sinks)])
    if not moments.n_tokens:
        raise ValueError("the calibration prompts have no token but sinks: give longer ones, or exclude_sinks=False.")
    return moments


def _layer(
    model: Model, read: Residuals, layer: int, token_map: TokenMap, kept: Bool[Tensor, " pos"], moments: Moments
) -> dict[str, Float[Tensor, "*token"]]:
    before, after = (read.stream[k, kept].cpu().double() for k in (layer, layer + 1))
    update, explained = after - before, token_map.update(before)
    residual = update - explained
    squared = residual.square().sum()
    angles = {"update": angle(update, explained), "residual": angle(residual, explained)}
    return {
        "r2": 1 - squared / (after - moments.leaving_sum[layer] / moments.n_tokens).square().sum(),
        "r2_update": 1 - squared / (update - moments.update_sum[layer] / moments.n_tokens).square().sum(),
        **{f"cos_{name}": torch.cos(found) for name, found in angles.items()},
        **{f"angle_{name}": torch.rad2deg(found) for name, found in angles.items()},
        "projection_update": _share(update @ token_map.subspace, update),
        "projection_residual": _share(residual @ token_map.subspace, residual),
        "error": _share(residual, after),
        "output_change": _output_change(model, read, layer, before + explained, kept),
    }


def _share(part: Float[Tensor, "token _"], whole: Float[Tensor, "token d_model"]) -> Float[Tensor, " token"]:
    tiny = torch.finfo(whole.dtype).tiny
    return torch.linalg.vector_norm(part, dim=-1) / torch.linalg.vector_norm(whole, dim=-1).clamp(min=tiny)


@without_gradients()
def _output_change(
    model: Model, read: Residuals, layer: int, mapped: Float[Tensor, "token d_model"], kept: Bool[Tensor, " pos"]
) -> Float[Tensor, " token"]:
    assert read.logits is not None
    stream = read.left[layer + 1].clone()
    stream[kept] = mapped.to(stream)
    changed = rerun(model, read.tokens, layer + 1, stream.unsqueeze(0), leaving=True)[0, kept].float().log_softmax(-1)
    plain = read.logits[kept].float().log_softmax(-1)
    return (plain.exp() * (plain - changed)).sum(-1).cpu()


def _dataset(samples: Sequence[tuple[np.ndarray, list[dict[str, Tensor]]]], attrs: dict[str, str | int]) -> xr.Dataset:
    n_layers = len(samples[0][1])
    means = {
        name: np.array([[float(found[name].mean()) for found in layers] for _, layers in samples])
        for name in _BY_SAMPLE
    }
    longest = max(len(kept) for kept, _ in samples)
    by_token = {name: np.full((len(samples), n_layers, longest), np.nan) for name in _BY_TOKEN}
    for row, (kept, layers) in enumerate(samples):
        for layer, found in enumerate(layers):
            for name in _BY_TOKEN:
                by_token[name][row, layer, : len(kept)][kept] = found[name].numpy()
    counted = np.isfinite(by_token["error"][:, 0])
    rank_correlation = [
        _spearman(*(by_token[name][:, layer][counted] for name in _BY_TOKEN)) for layer in range(n_layers)
    ]
    return labelled(
        {
            **{name: (("sample", "layer"), means[name], *words) for name, words in _BY_SAMPLE.items()},
            **{
                f"token_{name}": (("sample", "layer", "token"), by_token[name], *_BY_SAMPLE[name]) for name in _BY_TOKEN
            },
            "spearman": (("layer",), np.array(rank_correlation), "Spearman of error and output change", "1"),
        },
        {
            "sample": np.arange(len(samples)),
            "layer": np.arange(n_layers),
            "token": np.arange(longest),
            "n_tokens": ("sample", counted.sum(-1)),
        },
        importance="error",
        attrs=attrs,
    )


def _spearman(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)


UPDATE_GEOMETRY = Measure(
    update_geometry,
    "geometry of updates",
    "how much of each update a token-wise linear map explains",
    plot="plot_update_geometry",
    papers=(YOO_UPDATES,),
    group="importance",
    command="updates",
)
