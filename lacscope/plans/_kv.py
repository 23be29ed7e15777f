"""Where a plan keeps keys and values: the layers of a transformers cache, laid out in the order of the runs.

The cache itself remembers the plan that filled it, so that the next pass can tell whether it may go on with it; and
it refuses what a model outside the plan would add, whose blocks would meet the keys and values of others.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache, StaticLayer

from lacscope.plans._plan import Plan, PlanError, Slot

_LAYOUT = "_lacscope_layout"


@dataclass(frozen=True)
class _Layout:
    """How a cache is laid out. ``blanks`` are the empty cache layers of the model's own blocks."""

    plan: Plan
    blanks: tuple[Any, ...]
    changed: bool = False


def is_cache(value: Any) -> bool:
    """True for a transformers cache, among the arguments that a block is called with."""
    return isinstance(value, Cache)


def cached_length(cache: Any) -> int:
    """Tokens that the cache holds. Raises PlanError for one of a kind that cannot be laid out, and may not count."""
    _check_kind(cache)
    return int(cache.get_seq_length())


def lay_out(cache: Any, plan: Plan) -> None:
    """Give the cache one layer per place of the plan; drop those that a plan which skips more leaves behind.

    Raises:
        PlanError: the cache was filled by a plan that this one may not follow, or is of a kind that cannot be
            laid out anew.
    """
    held: _Layout | None = getattr(cache, _LAYOUT, None)
    if cached_length(cache) == 0:
        blanks = _blanks(cache, plan.n_layers) if held is None else held.blanks
        cache.layers = [copy.deepcopy(blanks[block]) for block in plan.kv_blocks]
        _remember(cache, _Layout(plan, blanks))
        return
    if held is None:
        held = _filled_by_the_model(cache, plan.n_layers)
    if held.plan == plan:
        return
    if held.changed:
        raise PlanError(
            f"this sequence changed its plan once already, to [{held.plan.describe()}]; it can now not go on with "
            f"[{plan.describe()}]. A plan changes between sequences, or once after prefill."
        )
    kept = plan.kept_kv(held.plan)
    if kept is None:
        raise PlanError(
            f"this sequence was read with the plan [{held.plan.describe()}] and cannot go on with "
            f"[{plan.describe()}]: a block that runs again would have holes in its keys and values. Within a "
            "sequence a plan may only skip more; start a new sequence (an empty cache) for another plan."
        )
    cache.layers = [cache.layers[place] for place in kept]
    _remember(cache, _Layout(plan, held.blanks, changed=True))


def _remember(cache: Any, layout: _Layout) -> None:
    setattr(cache, _LAYOUT, layout)
    # On the instance, before its class: the plan itself calls the class's, so a step costs nothing more.
    vars(cache).pop("update", None)
    if layout.plan != Plan.full(layout.plan.n_layers):
        cache.update = functools.partial(_outside, layout.plan.describe())


def _outside(filled_by: str, *args: Any, **kwargs: Any) -> NoReturn:
    raise PlanError(
        f"this cache was filled under the plan [{filled_by}], whose keys and values are not laid out as the model's "
        "own: go on inside lacscope.plan with that plan, or start a new sequence (an empty cache)."
    )


def _update(cache: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = type(cache).update(cache, *args, **kwargs)
    return found


def _blanks(cache: Any, n_layers: int) -> tuple[Any, ...]:
    _check_kind(cache)
    if not cache.layers:
        return tuple(cache.layer_class_to_replicate() for _ in range(n_layers))
    if len(cache.layers) != n_layers:
        raise PlanError(f"the empty cache has {len(cache.layers)} layers, the model {n_layers}: give it a new one.")
    return tuple(copy.deepcopy(layer) for layer in cache.layers)


def _filled_by_the_model(cache: Any, n_layers: int) -> _Layout:
    """The layout of a cache that was filled outside any plan."""
    _check_kind(cache)
    if len(cache.layers) != n_layers:
        raise PlanError(
            f"the cache holds {cached_length(cache)} tokens in {len(cache.layers)} layers, the model has {n_layers}: "
            "it was not filled by this model. Start a new sequence inside the plan."
        )
    return _Layout(Plan.full(n_layers), tuple(_emptied(layer) for layer in cache.layers))


def _emptied(layer: Any) -> Any:
    """A cache layer of that kind which holds nothing; the given one keeps what it has."""
    if not isinstance(layer, DynamicLayer):
        blank = copy.deepcopy(layer)
        blank.reset()
        return blank
    blank = copy.copy(layer)
    blank.keys = blank.values = None
    blank.is_initialized = False
    if hasattr(blank, "cumulative_length"):
        blank.cumulative_length = 0
    return blank


def _check_kind(cache: Any) -> None:
    kinds = {type(layer) for layer in cache.layers}
    plain = all(issubclass(kind, (DynamicLayer, StaticLayer)) for kind in kinds)
    if isinstance(cache, EncoderDecoderCache) or not plain or getattr(cache, "offloading", False):
        raise PlanError(
            f"a plan keeps keys and values of attention alone, in a DynamicCache or a StaticCache; this is a "
            f"{type(cache).__name__} of {', '.join(sorted(kind.__name__ for kind in kinds)) or 'no layers'}. "
            "Run the plan without a cache (use_cache=False)."
        )


class _OtherCacheError(PlanError, AttributeError):
    """A block asked its place for something that a place has not: also what ``hasattr`` expects."""


class _Place:
    """What one run of a block sees in place of the cache: its own K/V, whatever index it asks for."""

    def __init__(self, cache: Any, place: int, update: Callable[..., tuple[Tensor, Tensor]]) -> None:
        self._cache, self._place, self._update = cache, place, update

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self._update(keys, values, *args, **kwargs)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self._cache.get_seq_length(self._place))

    def __getattr__(self, name: str) -> Any:
        raise _OtherCacheError(
            f"under a plan a block has its own keys and values, with update and get_seq_length; this one asks the "
            f"cache for {name!r}. Run the plan without a cache (use_cache=False)."
        )


def places(cache: Any, slot: Slot, where: tuple[int, ...]) -> tuple[list[Any], Callable[[], None] | None]:
    """What each block of a slot is given in place of the cache, and what is left to do once all of them ran."""
    if slot.kv == "each":
        return [_Place(cache, place, _keeper(cache, place)) for place in where], None
    seen: list[tuple[Tensor, Tensor]] = []
    rest: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    layer = cache.layers[where[0]]
    if not isinstance(layer, DynamicLayer):
        raise PlanError(
            f"kv='authors_kv' needs a cache that grows (DynamicCache), this one has {type(layer).__name__}."
        )

    def lend(keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        # A shallow copy: a growing layer replaces its tensors and leaves those of the original.
        seen.append((keys, values))
        rest.append((args, kwargs))
        return copy.copy(layer).update(keys, values, *args, **kwargs)

    def keep_mean() -> None:
        keys, values = (torch.stack(parts).mean(0) for parts in zip(*seen, strict=True))
        args, kwargs = rest[0]
        _update(cache, keys, values, where[0], *args, **kwargs)

    return [_Place(cache, place, lend) for place in where], keep_mean


def _keeper(cache: Any, place: int) -> Callable[..., tuple[Tensor, Tensor]]:
    def keep(keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return _update(cache, keys, values, place, *args, **kwargs)

    return keep
