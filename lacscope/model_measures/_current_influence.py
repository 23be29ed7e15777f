"""Skip influence on all tokens, the current one among them: a layer is skipped everywhere."""

from typing import Any

import xarray as xr

from lacscope.model_measures._csordas_prompts import CSORDAS_PROMPT_FORMAT
from lacscope.model_measures._cut_positions import current_variants
from lacscope.model_measures._skip_influence import (
    SOURCE,
    SkippedUnit,
    influence_dataset,
    read_rows,
    skip_every_layer,
)
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.models.adapters import without_gradients
from lacscope.tasks._gsm8k import CSORDAS
from lacscope.traces._measure import Measure, Ranking
from lacscope.traces._provenance import Preset, Progress, result_attrs

CSORDAS_CURRENT = Preset(
    "csordas_2025/current_skip_influence",
    f"{SOURCE}, effect on all tokens",
    {"data": "GSM8K", "prompt_format": CSORDAS_PROMPT_FORMAT, "samples": 20, "keep_first": 1},
    read_in="code",
)


@without_gradients()
def current_skip_influence(
    model: Model,
    inputs: Any,
    *,
    unit: SkippedUnit = "block",
    keep_first: int = 1,
    max_tokens: int | None = None,
    data: str = "",
    prompt_format: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """How skipping each layer at every token changes later layers and the output, at those same tokens.

    Values are the largest over the positions p >= keep_first.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        unit: the part that is skipped: ``"block"``, or its ``"attn"`` (the MLP then reads what is left) or ``"mlp"``
            alone.
        keep_first: the number of first positions that are never skipped; position 0 is an attention sink.
        max_tokens: the number of tokens that are read of each prompt, from its first.
        data: the name of the prompts, for figures.
        prompt_format: the form in which they are put to the model, in words, such as :data:`CSORDAS_PROMPT_FORMAT`;
            part of the settings that are compared with the paper's.
        progress: a function that is called with (done, total), in layers skipped.

    Returns:
        ``influence`` (sample, skipped, layer), share of the norm of the layer's update, NaN where layer < skipped;
        where layer = skipped it is the layer's own, the paper's diagonal: 1 for a block, of which nothing is left;
        ``output_influence`` (sample, skipped), L2 distance of next-token distributions, 0 to sqrt(2);
        ``max_influence`` and ``max_output_influence``, the maximum over samples, as the paper shows it.

    Drawn by :func:`lacscope.plots.plot_skip_influence`.

    Raises:
        ValueError: an unknown unit, or a negative ``keep_first``.
        InputError: inputs that cannot be read, or a prompt of no more than ``keep_first`` tokens.
        UnsupportedModelError: a sublayer of a model whose hook points are not the block's parts.

    Source: Csordás, Manning and Potts 2025 (arXiv 2505.13898), and its code: 20 prompts of GSM8K.

    >>> from lacscope.testing import tiny_model
    >>> found = current_skip_influence(tiny_model(n_layers=3), [[5, 17, 3, 60], [8, 44]])
    >>> found["max_influence"].shape, found["output_influence"].shape
    ((3, 3), (2, 3))
    """
    rows = read_rows(model, inputs, unit, keep_first, max_tokens)
    variants = [current_variants(len(row), keep_first, sample) for sample, row in enumerate(rows)]
    influence, output = skip_every_layer(model, rows, variants, unit, progress)
    attrs = result_attrs(
        "current_skip_influence",
        model_attrs(model),
        preset=CSORDAS_CURRENT,
        settings={"unit": unit, "keep_first": keep_first, "max_tokens": max_tokens, "prompt_format": prompt_format},
        positions=f"skipped and measured at p >= {keep_first}",
        aggregation="max over positions and prompts",
        n_samples=len(rows),
        data=data,
    )
    return influence_dataset(
        influence, output, [len(row) for row in rows], {**attrs, "influence_on": "all tokens", "unit": unit}
    )


CURRENT_SKIP_INFLUENCE = Measure(
    current_skip_influence,
    "skip influence",
    "skip influence of each layer on all tokens",
    plot="plot_skip_influence",
    parts="each",
    rankings={"skip influence": Ranking("output_influence", layer="skipped")},
    papers=(CSORDAS_CURRENT,),
    group="depth",
    command="current",
    style=CSORDAS,
)
