"""Live tensor memory while tracing, against keeping every residual stream."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lacscope
from bench.speed import prompt

TOKENS = 512
RESIDUAL_POST = "hook_resid_post"


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations made and that are still alive; keeps the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # A view of a weight is no new memory.
        given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and _storage(leaf) not in given:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self.live:
            self.live[key] = storage.nbytes()
            weakref.finalize(storage, self.live.pop, key, None)
            self.peak = max(self.peak, sum(self.live.values()))


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def measure(work: Callable[[], Any]) -> tuple[int, int]:
    """Bytes (kept afterwards, peak) of a piece of work; what it returns counts as kept."""
    with torch.inference_mode(), LiveBytes() as live:
        kept = work()
        size = sum(live.live.values())
    del kept
    return size, live.peak


def recorded(model: Any, effect: str) -> Callable[[], Any]:
    def work() -> Any:
        rule = lacscope.L2AdaptiveComputation(0.8)
        with lacscope.halting(model, rule, effect) as recorder:  # type: ignore[arg-type]
            model(prompt(TOKENS), return_type=None)
        return recorder

    return work


def table(lean: Any, full: Any) -> list[tuple[str, float, float]]:
    """(what, MB kept, MB at the peak) for the plain pass, each effect, and the two caches."""

    def plain() -> None:
        lean(prompt(TOKENS), return_type=None)

    def cached(model: Any, names: Any) -> Callable[[], Any]:
        return lambda: model.run_with_cache(prompt(TOKENS), names_filter=names, return_type=None)[1]

    works: dict[str, Callable[[], Any]] = {
        "plain pass": plain,
        **{effect: recorded(lean, effect) for effect in ("observe", "bypass", "readout")},
        "run_with_cache, every resid_post": cached(lean, lambda name: name.endswith("hook_out") and "blocks" in name),
        "run_with_cache, everything": cached(full, None),
    }
    return [(what, *(size / 1e6 for size in measure(work))) for what, work in works.items()]
