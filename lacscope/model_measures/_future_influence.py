"""Skip influence on future tokens: what later tokens read of a layer through attention."""

from collections.abc import Sequence
from typing import Any

import xarray as xr

from lacscope.model_measures._csordas_prompts import CSORDAS_PROMPT_FORMAT
from lacscope.model_measures._cut_positions import cut_settings, cut_table, future_variants, take_cuts
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
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import Preset, Progress, result_attrs

CSORDAS_FUTURE = Preset(
    "csordas_2025/future_skip_influence",
    f"{SOURCE}, effect on future tokens",
    {
        "data": "GSM8K",
        "prompt_format": CSORDAS_PROMPT_FORMAT,
        "samples": 10,
        "unit": "block",
        "n_cuts": 4,
        "cuts": "random",
        "keep_first": 1,
    },
    read_in="code",
)


@without_gradients()
def future_skip_influence(
    model: Model,
    inputs: Any,
    *,
    n_cuts: int = 4,
    cuts: Sequence[Sequence[int]] | None = None,
    unit: SkippedUnit = "block",
    keep_first: int = 1,
    seed: int = 0,
    first: int = 0,
    max_tokens: int | None = None,
    data: str = "",
    prompt_format: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """How skipping each layer at the tokens before a cut t changes later layers and the output from t on.

    The tokens from t on are not skipped: what changes there reached them through attention. Values are the largest
    over positions p >= t and over the prompt's cuts.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        n_cuts: the number of t that are drawn for each prompt, out of ``range(8, n_tokens - 4, 8)``; all where there
            are fewer.
        cuts: the t of each prompt instead, such as the position of its answer's first token.
        unit: the part that is skipped: ``"block"``, or its ``"attn"`` or ``"mlp"`` alone.
        keep_first: the number of first positions that are never skipped; position 0 is an attention sink.
        seed: the seed of the draw; a prompt's cuts depend on it and on the prompt's place alone.
        first: the place of the first prompt in a longer list that is read in parts. Each prompt then gets the cuts that
            it would get if the whole list were given at once.
        max_tokens: the number of tokens that are read of each prompt, from its first.
        data: the name of the prompts, for figures.
        prompt_format: the form in which they are put to the model, in words, such as :data:`CSORDAS_PROMPT_FORMAT`;
            part of the settings that are compared with the paper's.
        progress: a function that is called with (done, total), in layers skipped.

    Returns:
        ``influence`` (sample, skipped, layer), share of the norm of the layer's update, NaN where layer < skipped;
        where layer = skipped it is the layer's own from t on, the paper's diagonal: 0 but for rounding;
        ``output_influence`` (sample, skipped), L2 distance of next-token distributions, 0 to sqrt(2);
        ``max_influence`` and ``max_output_influence``, the maximum over samples, as the paper shows it;
        ``cut`` (sample, draw), the t used, -1 where a prompt has fewer. The setting ``cuts`` says "given" or "random".

    Drawn by :func:`lacscope.plots.plot_skip_influence`.

    Raises:
        ValueError: an unknown unit, ``n_cuts`` under 1, or cuts that do not fit the prompts.
        InputError: inputs that cannot be read, or a prompt of fewer than 13 tokens to draw cuts in.
        UnsupportedModelError: a sublayer of a model whose hook points are not the block's parts.

    Source: Csordás, Manning and Potts 2025 (arXiv 2505.13898), and its code: 10 GSM8K questions with answers. For
    the depth score of multi-hop questions the one cut is the answer's first token.

    >>> from lacscope.testing import tiny_model
    >>> found = future_skip_influence(tiny_model(n_layers=3), [list(range(3, 33))])
    >>> found["influence"].dims, found["cut"].values.tolist()
    (('sample', 'skipped', 'layer'), [[8, 16, 24, -1]])
    """
    rows = read_rows(model, inputs, unit, keep_first, max_tokens)
    lengths = [len(row) for row in rows]
    used = take_cuts(cuts, lengths, n_cuts, keep_first, seed, first)
    variants = [future_variants(own, length, keep_first) for own, length in zip(used, lengths, strict=True)]
    influence, output = skip_every_layer(model, rows, variants, unit, progress)
    settings = {
        "unit": unit,
        "keep_first": keep_first,
        "max_tokens": max_tokens,
        "prompt_format": prompt_format,
        **cut_settings(cuts, n_cuts, seed),
    }
    attrs = result_attrs(
        "future_skip_influence",
        model_attrs(model),
        preset=CSORDAS_FUTURE,
        settings=settings,
        positions=f"skipped at {keep_first} <= p < t, measured at p >= t",
        aggregation=f"max over positions, {f'{n_cuts} random' if cuts is None else 'given'} t and prompts",
        n_samples=len(rows),
        data=data,
    )
    found = influence_dataset(influence, output, lengths, {**attrs, "influence_on": "future tokens", "unit": unit})
    return found.assign(cut=cut_table(used, n_cuts if cuts is None else 1))


FUTURE_SKIP_INFLUENCE = Measure(
    future_skip_influence,
    "skip influence on later tokens",
    "skip influence of each layer on later tokens",
    plot="plot_skip_influence",
    papers=(CSORDAS_FUTURE,),
    group="depth",
    command="future",
    style=CSORDAS,
)
