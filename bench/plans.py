"""Decode time with a part of the blocks skipped by a plan, against the same bridge's full decode.

Beside it the plain transformers model with the same blocks deleted, against the plain model: what deleting can save
at best. Rounds are interleaved as in :mod:`bench.speed`.
"""

import copy
import statistics
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import lacscope
from bench.speed import DECODE_PROMPT, DECODE_STEPS, interleaved, plain_decode, prompt
from lacscope.analyze._maps import middle
from lacscope.models.adapters import adapt
from lacscope.plans import Plan, plan


@dataclass(frozen=True)
class Saving:
    """Median over rounds of time with the blocks skipped / time with all of them, with its quartiles."""

    what: str
    threads: int
    median: float
    low: float
    high: float
    full_seconds: float
    rounds: int


def without_blocks(hf_model: Any, layers: Iterable[int]) -> Any:
    """A copy of a Llama model that shares its weights, has these blocks deleted and the others renumbered."""
    # The memo keeps every parameter as it is: only modules and config are copied.
    shared = copy.deepcopy(hf_model, {id(weight): weight for weight in hf_model.parameters()})
    dropped = set(layers)
    kept = [block for layer, block in enumerate(shared.model.layers) if layer not in dropped]
    for index, block in enumerate(kept):
        block.self_attn.layer_idx = index
    shared.model.layers = nn.ModuleList(kept)
    shared.config.num_hidden_layers = len(kept)
    if getattr(shared.config, "layer_types", None):
        shared.config.layer_types = shared.config.layer_types[: len(kept)]
    return shared


def decode(model: Any, about: AbstractContextManager[Any]) -> Tensor:
    """The same passes as ``plain_decode``, on a bridge: the logits of each step."""
    adapter = adapt(model)
    tokens, cache, found = prompt(DECODE_PROMPT), None, []
    mask = torch.ones_like(tokens).bool()
    with torch.inference_mode(), about:
        for _ in range(DECODE_STEPS + 1):
            logits, cache = adapter.step(tokens, mask, cache, use_cache=True, keep=1)
            found.append(logits[0, -1])
            tokens = logits[:, -1].argmax(-1, keepdim=True)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return torch.stack(found)


def check_same_logits(model: Any, layers: Iterable[int]) -> float:
    """Largest difference of the plan's logits from those of ``bypass``; AssertionError above rounding."""
    skipped = decode(model, plan(model, Plan.skip(adapt(model).n_layers, layers)))
    bypassed = decode(model, lacscope.halting(model, lacscope.FixedLayers(layers), "bypass"))
    difference = float((skipped - bypassed).abs().max())
    if difference > 1e-3:
        raise AssertionError(f"logits with the blocks skipped differ from bypass by {difference}")
    return difference


def compare(plain: Any, lean: Any, full: Any, threads: int, rounds: int) -> list[Saving]:
    """Time with 30 % of the blocks skipped over time with all, for both bridges and for the plain model."""
    torch.set_num_threads(threads)
    n_layers = adapt(lean).n_layers
    skip = Plan.skip(n_layers, middle(n_layers))
    deleted = without_blocks(plain, middle(n_layers))
    sides: dict[str, Callable[[], Tensor]] = {
        "bridge, residual hooks": lambda: decode(lean, nullcontext()),
        "bridge, residual hooks, skipped": lambda: decode(lean, plan(lean, skip)),
        "bridge, full hooks": lambda: decode(full, nullcontext()),
        "bridge, full hooks, skipped": lambda: decode(full, plan(full, skip)),
        "plain model": lambda: plain_decode(plain),
        "plain model, skipped": lambda: plain_decode(deleted),
    }
    times = interleaved(sides, rounds)
    found = []
    for what in ("bridge, residual hooks", "bridge, full hooks", "plain model"):
        ratios = [mine / base for mine, base in zip(times[f"{what}, skipped"], times[what], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        found.append(Saving(what, threads, median, low, high, statistics.median(times[what]), rounds))
    return found
