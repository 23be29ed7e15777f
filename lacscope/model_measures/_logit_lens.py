"""The logit lens: what the final norm and head would say of the stream between the layers."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from lacscope.model_measures._csordas_prompts import CSORDAS_PROMPT_FORMAT
from lacscope.model_measures._positions import kept_tokens, positions_in_words
from lacscope.model_measures._residuals import read_residuals, rerun
from lacscope.models._checks import check_blocks
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.models.adapters import without_gradients
from lacscope.tasks._gsm8k import CSORDAS
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import Preset, Progress, result_attrs
from lacscope.traces._spread import with_spread
from lacscope.tracing._inputs import read_inputs

CSORDAS_LOGIT_LENS = Preset(
    "csordas_2025/logit_lens",
    "Csordás, Manning and Potts 2025, arXiv 2505.13898, logit lens",
    {
        "data": "GSM8K",
        "prompt_format": CSORDAS_PROMPT_FORMAT,
        "samples": 20,
        "top_k": 5,
        "exclude_sinks": False,
        "max_tokens": None,
    },
    read_in="code",
)


@without_gradients()
def logit_lens(
    model: Model,
    inputs: Any,
    *,
    top_k: int = 5,
    exclude_sinks: bool = False,
    max_tokens: int | None = None,
    data: str = "",
    prompt_format: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """How far the prediction read from each layer's input is from the model's own.

    p_l is the softmax of the head of the final norm of h_l; p_out is the model's output.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``.
        inputs: the prompts, as :func:`lacscope.trace` takes them.
        top_k: the number of likeliest tokens that are compared.
        exclude_sinks: True to leave sinks out of the means. The paper keeps them.
        max_tokens: the number of tokens that are read of each prompt, from its first.
        data: the name of the prompts, for the figure.
        prompt_format: the form in which they are put to the model, in words, such as :data:`CSORDAS_PROMPT_FORMAT`;
            part of the settings that are compared with the paper's.
        progress: a function that is called with (prompts done, prompts in all).

    Returns:
        Dataset over (sample, state), token means: ``kl``, KL(p_l || p_out) in nats, and ``overlap``, the share of
        p_out's ``top_k`` tokens that are p_l's too. State l is what enters layer l, as in the paper; state L, which
        the paper leaves out, is the output itself (0 nats, overlap 1). ``n_tokens`` (sample) counts the tokens.
        The figure is the mean of the prompts, as Csordás et al. have it; Hu et al. pool: :func:`pool_tokens`.

    Drawn by :func:`lacscope.plots.plot_logit_lens`.

    Raises:
        InputError: inputs that cannot be read.
        ValueError: ``top_k`` is not between 1 and the size of the vocabulary.

    Source: Csordás, Manning and Potts 2025 (arXiv 2505.13898); the lens is nostalgebraist's (2020).

    >>> found = logit_lens(model, ["The capital of France is"])  # doctest: +SKIP
    >>> found.kl.mean("sample")  # doctest: +SKIP
    """
    adapter = check_blocks(model)
    if isinstance(top_k, bool) or not hasattr(top_k, "__index__") or not 1 <= top_k <= adapter.vocab_size:
        raise ValueError(f"top_k must lie between 1 and {adapter.vocab_size}, the size of the vocabulary; got {top_k}.")
    rows = read_inputs(adapter, inputs)
    found: dict[str, list[np.ndarray]] = {"kl": [], "overlap": []}
    counts: list[int] = []
    for done, read in enumerate(read_residuals(model, rows, logits=True, max_tokens=max_tokens), 1):
        assert read.logits is not None
        kept = kept_tokens(read, exclude_sinks)
        out = read.logits[kept].float().log_softmax(-1)
        # One state at a time: the logits of all of them would be L+1 times a prompt's.
        lenses = (rerun(model, read.tokens, adapter.n_layers, state.unsqueeze(0))[0, kept] for state in read.stream)
        pairs = [_compare(lens.float().log_softmax(-1), out, top_k) for lens in lenses]
        for name, values in zip(found, zip(*pairs, strict=True), strict=True):
            found[name].append(torch.stack(values).cpu().numpy())
        counts.append(int(kept.sum()))
        if progress is not None:
            progress(done, len(rows))
    words = {
        "kl": {"long_name": "KL(p_l || p_out)", "units": "nats"},
        "overlap": {"long_name": f"top-{top_k} overlap of p_l with p_out", "units": "1"},
    }
    ds = xr.Dataset(
        {name: (("sample", "state"), np.stack(values), words[name]) for name, values in found.items()},
        {"sample": np.arange(len(rows)), "state": np.arange(adapter.n_layers + 1), "n_tokens": ("sample", counts)},
    )
    ds.attrs = result_attrs(
        "logit_lens",
        model_attrs(adapter),
        preset=CSORDAS_LOGIT_LENS,
        settings={
            "top_k": top_k,
            "exclude_sinks": exclude_sinks,
            "max_tokens": max_tokens,
            "prompt_format": prompt_format,
        },
        positions=positions_in_words(exclude_sinks),
        aggregation="mean over tokens, per sample",
        n_samples=len(rows),
        data=data,
    )
    return with_spread(ds)


def _compare(
    lens: Float[Tensor, "pos vocab"], out: Float[Tensor, "pos vocab"], top_k: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Token means of KL(lens || out) and of the share of the top k that both have, from log-probabilities."""
    kl = (lens.exp() * (lens - out)).sum(-1)
    top, top_out = lens.topk(top_k).indices, out.topk(top_k).indices
    shared = (top.unsqueeze(-1) == top_out.unsqueeze(-2)).sum((-2, -1))
    return kl.mean(), (shared / top_k).mean()


LOGIT_LENS = Measure(
    logit_lens,
    "logit lens",
    "KL and top-5 overlap of each state's prediction with the output's",
    plot="plot_logit_lens",
    parts="each",
    papers=(CSORDAS_LOGIT_LENS,),
    group="depth",
    style=CSORDAS,
)
