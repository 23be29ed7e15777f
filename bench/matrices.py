"""Time of the two matrices of skip influence: every layer skipped once for each prompt."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench.speed import prompt
from lacscope.model_measures import current_skip_influence, future_skip_influence

PROMPTS = 10
TOKENS = 100


@dataclass(frozen=True)
class Matrix:
    """Wall-clock seconds of one analysis of 10 prompts of 100 tokens."""

    what: str
    threads: int
    seconds: float


def prompts() -> list[list[int]]:
    """Fixed token ids: what they say changes nothing in the work."""
    ids = prompt(PROMPTS * TOKENS)[0].tolist()
    return [ids[start : start + TOKENS] for start in range(0, len(ids), TOKENS)]


def measure(model: Any, threads: int) -> list[Matrix]:
    """Both matrices once; each skips every layer for every prompt, so one run is long enough to time."""
    torch.set_num_threads(threads)
    analyses: dict[str, Callable[..., Any]] = {
        "current tokens": current_skip_influence,
        "future tokens, 4 cuts": future_skip_influence,
    }
    found = []
    for what, analysis in analyses.items():
        start = time.perf_counter()
        analysis(model, prompts())
        found.append(Matrix(what, threads, time.perf_counter() - start))
    return found
