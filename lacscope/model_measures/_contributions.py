"""How large each layer's update is beside the residual stream, and where it points."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from lacscope.model_measures._csordas_prompts import CSORDAS_PROMPT_FORMAT
from lacscope.model_measures._pooling import POOLED
from lacscope.model_measures._positions import kept_tokens, positions_in_words
from lacscope.model_measures._residuals import Residuals, read_residuals
from lacscope.models._checks import check_blocks
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.tasks._gsm8k import CSORDAS
from lacscope.traces._measure import Measure, Ranking
from lacscope.traces._provenance import Preset, Progress, result_attrs
from lacscope.traces._spread import with_spread
from lacscope.tracing._inputs import read_inputs

_PAPER = "Csordás, Manning and Potts 2025, arXiv 2505.13898"
_SETTINGS = {
    "data": "GSM8K",
    "prompt_format": CSORDAS_PROMPT_FORMAT,
    "samples": 20,
    "exclude_sinks": False,
    "max_tokens": None,
    "aggregation": POOLED,
}
CSORDAS_CONTRIBUTIONS = Preset(
    "csordas_2025/relative_contributions", f"{_PAPER}, relative contributions", _SETTINGS, read_in="code"
)
CSORDAS_COSINES = Preset("csordas_2025/residual_cosines", f"{_PAPER}, cosine similarities", _SETTINGS, read_in="code")

_SMALLEST_NORM = 1e-6
ByToken = dict[str, Float[Tensor, "layer pos"]]


def relative_contributions(
    model: Model,
    inputs: Any,
    *,
    sublayers: bool = True,
    exclude_sinks: bool = False,
    max_tokens: int | None = None,
    data: str = "",
    prompt_format: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Norm of what a layer adds, beside the norm of the stream that it is added to.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        sublayers: True for the attention's and the MLP's as well; False needs block-level hook points alone.
        exclude_sinks: True to leave sinks out of the means. The paper keeps them.
        max_tokens: the number of tokens that are read of each prompt, from its first.
        data: the name of the prompts, for the figure.
        prompt_format: the form in which they are put to the model, in words, such as :data:`CSORDAS_PROMPT_FORMAT`;
            part of the settings that are compared with the paper's.
        progress: a function that is called with (prompts read, prompts).

    Returns:
        Dataset over (sample, layer), token means of ratios of norms: ``attn_contribution`` ||a|| / ||h||,
        ``mlp_contribution`` ||m|| / ||h + a|| and ``block_contribution`` ||h_{l+1} - h_l|| / ||h||. In parallel
        blocks the MLP reads h, so ``mlp_contribution`` is ||m|| / ||h||, and its attributes say so.
        ``n_tokens`` (sample) counts the tokens of each mean; a sample without any is NaN. The figure pools the tokens
        of all prompts, as the authors do: ``pool_tokens(found)``.

    Drawn by :func:`lacscope.plots.plot_relative_contributions`.

    Raises:
        InputError: inputs that cannot be read.
        UnsupportedModelError: ``sublayers`` of a model whose hook points are not the block's parts.

    Source: Csordás, Manning and Potts 2025 (arXiv 2505.13898), "relative contribution".

    >>> found = relative_contributions(model, ["The capital of France is"])  # doctest: +SKIP
    >>> pool_tokens(found).block_contribution  # doctest: +SKIP
    """
    asked = {"sublayers": sublayers, "exclude_sinks": exclude_sinks, "max_tokens": max_tokens} | {
        "prompt_format": prompt_format
    }
    return _token_means(
        "relative_contributions", CSORDAS_CONTRIBUTIONS, model, inputs, _contributions, asked, data, progress
    )


def residual_cosines(
    model: Model,
    inputs: Any,
    *,
    sublayers: bool = True,
    exclude_sinks: bool = False,
    max_tokens: int | None = None,
    data: str = "",
    prompt_format: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Cosine of what a layer adds with the stream that it is added to: below 0 it erases, above 0 it amplifies.

    Arguments, errors and source are those of :func:`relative_contributions`.

    Returns:
        Dataset over (sample, layer), token means in [-1, 1]: ``cos_attn_resid`` cos(a, h), ``cos_mlp_resid``
        cos(m, h + a), ``cos_update_resid`` cos(h_{l+1} - h_l, h) and ``cos_pre_post`` cos(h_l, h_{l+1}). In
        parallel blocks ``cos_mlp_resid`` is cos(m, h), and its attributes say so. The cosine with a vector of
        zeros is 0. ``n_tokens`` (sample) counts the tokens of each mean.

    Drawn by :func:`lacscope.plots.plot_residual_cosines`.

    >>> found = residual_cosines(model, ["The capital of France is"])  # doctest: +SKIP
    >>> pool_tokens(found).cos_update_resid  # doctest: +SKIP
    """
    asked = {"sublayers": sublayers, "exclude_sinks": exclude_sinks, "max_tokens": max_tokens} | {
        "prompt_format": prompt_format
    }
    return _token_means("residual_cosines", CSORDAS_COSINES, model, inputs, _cosines, asked, data, progress)


def _token_means(
    measure: str,
    preset: Preset,
    model: Model,
    inputs: Any,
    ratios: Callable[[Residuals, bool], ByToken],
    asked: dict[str, Any],
    data: str,
    progress: Progress | None,
) -> xr.Dataset:
    adapter = check_blocks(model)
    rows = read_inputs(adapter, inputs)
    parallel = adapter.parallel_blocks
    means: list[dict[str, np.ndarray]] = []
    counts: list[int] = []
    for read in read_residuals(model, rows, sublayers=asked["sublayers"], max_tokens=asked["max_tokens"]):
        kept = kept_tokens(read, asked["exclude_sinks"])
        counts.append(int(kept.sum()))
        means.append({name: by[:, kept].mean(-1).cpu().numpy() for name, by in ratios(read, parallel).items()})
        if progress is not None:
            progress(len(means), len(rows))
    words = _words("h" if parallel else "h + a")
    ds = xr.Dataset(
        {
            name: (
                ("sample", "layer"),
                np.stack([one[name] for one in means]),
                {"long_name": words[name], "units": "1"},
            )
            for name in means[0]
        },
        {"sample": np.arange(len(means)), "layer": np.arange(adapter.n_layers), "n_tokens": ("sample", counts)},
    )
    ds.attrs = result_attrs(
        measure,
        model_attrs(adapter),
        preset=preset,
        settings={**asked, "aggregation": POOLED},
        positions=positions_in_words(asked["exclude_sinks"]),
        aggregation="mean over the tokens of all prompts, pooled",
        n_samples=len(means),
        data=data,
    )
    return with_spread(ds)


def _words(mlp_reads: str) -> dict[str, str]:
    parallel = " (parallel blocks)" if mlp_reads == "h" else ""
    return {
        "attn_contribution": "attention: ||a|| / ||h||",
        "mlp_contribution": f"MLP: ||m|| / ||{mlp_reads}||{parallel}",
        "block_contribution": "block: ||a + m|| / ||h||",
        "cos_attn_resid": "attention: cos(a, h)",
        "cos_mlp_resid": f"MLP: cos(m, {mlp_reads}){parallel}",
        "cos_update_resid": "block: cos(a + m, h)",
        "cos_pre_post": "cos(h_l, h_l+1)",
    }


def _contributions(read: Residuals, parallel: bool) -> ByToken:
    pre = read.stream[:-1]
    found: ByToken = {}
    if read.attn_out is not None and read.mlp_out is not None:
        found["attn_contribution"] = _ratio(read.attn_out, pre)
        found["mlp_contribution"] = _ratio(read.mlp_out, pre if parallel else pre + read.attn_out)
    return found | {"block_contribution": _ratio(read.update, pre)}


def _cosines(read: Residuals, parallel: bool) -> ByToken:
    pre, post = read.stream[:-1], read.stream[1:]
    found: ByToken = {}
    if read.attn_out is not None and read.mlp_out is not None:
        found["cos_attn_resid"] = _cosine(read.attn_out, pre)
        found["cos_mlp_resid"] = _cosine(read.mlp_out, pre if parallel else pre + read.attn_out)
    return found | {"cos_update_resid": _cosine(read.update, pre), "cos_pre_post": _cosine(pre, post)}


def _ratio(
    part: Float[Tensor, "layer pos d_model"], whole: Float[Tensor, "layer pos d_model"]
) -> Float[Tensor, "layer pos"]:
    sizes = [torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32) for x in (part, whole)]
    return sizes[0] / sizes[1].clamp(min=_SMALLEST_NORM)


def _cosine(a: Float[Tensor, "layer pos d_model"], b: Float[Tensor, "layer pos d_model"]) -> Float[Tensor, "layer pos"]:
    return torch.cosine_similarity(a.float(), b.float(), dim=-1)


RELATIVE_CONTRIBUTIONS = Measure(
    relative_contributions,
    "relative contribution",
    "norm of what each layer adds, beside the stream's",
    plot="plot_relative_contributions",
    parts="each",
    rankings={"relative contribution": Ranking("block_contribution", options={"sublayers": False})},
    papers=(CSORDAS_CONTRIBUTIONS,),
    group="depth",
    command="contributions",
    style=CSORDAS,
    fixed={"aggregation": POOLED},
)
RESIDUAL_COSINES = Measure(
    residual_cosines,
    "residual cosines",
    "cosine of what each layer adds with the stream",
    plot="plot_residual_cosines",
    parts="each",
    papers=(CSORDAS_COSINES,),
    group="depth",
    command="cosines",
    style=CSORDAS,
    fixed={"aggregation": POOLED},
)
