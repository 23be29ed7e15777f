"""A trace from activations that the user cached already."""

from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from lacscope.models._checks import refuse_reordered
from lacscope.models.adapters import adapt
from lacscope.traces._schema import SampleTrace, build
from lacscope.tracing._halting_pass import HaltingPass
from lacscope.tracing._program import RESIDUAL_POINTS, Program
from lacscope.tracing._recorder import Run, assemble, run_attrs


def trace_from_cache(
    cache: Any,
    tokens: Int[Tensor, "batch pos"],
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
) -> xr.Dataset:
    """The trace of one uncached pass, from the result of ``run_with_cache``.

    A cache does not tell what made it. Where that was a pass under a plan that skips, call this inside the plan's
    context, so that the trace says so; without that, a skipped layer counts as one that changed nothing.

    Args:
        cache: an ``ActivationCache`` (or dict) with ``blocks.{l}.hook_resid_pre`` and ``..._post`` for every
            layer, batch dimension kept.
        tokens: the tokens that the pass read.
        attention_mask: True on real tokens; all are real by default.

    Returns:
        The same Dataset as ``trace(..., effect="observe")`` of these prompts. All tokens are prefill. Without
        an ``ActivationCache`` (whose model is known) there are no token texts.

    Raises:
        KeyError: residual streams missing from the cache, naming them.
        ValueError: tokens that do not fit the cache, or a plan that does more than skip.

    >>> _, cache = model.run_with_cache(tokens)  # doctest: +SKIP
    >>> voids(trace_from_cache(cache, tokens), alpha=0.8)  # doctest: +SKIP
    """
    model = getattr(cache, "model", None)
    if model is not None:
        refuse_reordered(
            adapt(model),
            "a cache has one stream a block and does not tell in which order they ran. Use lacscope.trace under that "
            "plan.",
        )
    n_layers = adapt(model).n_layers if model is not None else _count_layers(cache)
    keys = [
        (_key(cache, layer, "hook_resid_pre", "hook_in"), _key(cache, layer, "hook_resid_post", "hook_out"))
        for layer in range(n_layers)
    ]
    if not keys:
        raise KeyError("the cache has no residual streams: run_with_cache with names_filter=None or resid_pre/post.")
    if tokens.ndim != 2 or cache[keys[0][0]].shape[:2] != tokens.shape:
        raise ValueError(
            f"tokens are {tuple(tokens.shape)}, the cached stream is {tuple(cache[keys[0][0]].shape)}: "
            "pass tokens as [batch, pos] and keep the cache's batch dimension."
        )
    mask = torch.ones_like(tokens, dtype=torch.bool)
    if attention_mask is not None:
        mask = attention_mask.to(tokens.device).bool()
    # Measured as any pass is: the same norms in every number format.
    replayed = HaltingPass(Program((), "observe", n_layers), run_states=[])
    for layer, streams in enumerate(keys):
        for point, key in zip(RESIDUAL_POINTS, streams, strict=True):
            # Together on one device: the layers of the model may be on several.
            replayed.callback(point, layer, cache[key].to(tokens.device))
    record = replayed.record(tokens, mask)
    record.check_finite()
    run = Run(rule_states=[])
    run.add(record)
    samples = run.samples()
    if model is not None:
        adapter = adapt(model)
        return assemble(samples, adapter, run_attrs(adapter, (), "observe"))
    return _anonymous(samples)


def _anonymous(samples: list[SampleTrace]) -> xr.Dataset:
    return build(samples, {"model": "unnamed", "rule": "null", "effect": "observe"})


def _count_layers(cache: Any) -> int:
    layers = {int(key.split(".")[1]) for key in cache if key.startswith("blocks.") and key.split(".")[1].isdigit()}
    return max(layers, default=-1) + 1


def _key(cache: Any, layer: int, *points: str) -> str:
    for point in points:
        if f"blocks.{layer}.{point}" in cache:
            return f"blocks.{layer}.{point}"
    raise KeyError(
        f"the cache has no blocks.{layer}.{points[0]}. Cache with names_filter=None, or with a filter that keeps "
        "hook_resid_pre and hook_resid_post of every layer."
    )
