"""What runs when: a plan is a sequence of slots, each a set of blocks that read the same stream.

The K/V of every run of every block has a place of its own in the cache, counted in the order in which they run and
without gaps: transformers reads the length of a cache from its first layer, so that must always be one that ran.
"""

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, SupportsIndex, get_args

import numpy as np

from lacscope.guards._arguments import ANY, listed, whole_number
from lacscope.guards._shown import ranges

KV = Literal["each", "authors_kv"]
Kind = Literal["skip", "middle_repeat", "reverse", "random", "parallel", "looped_parallel"]


class PlanError(RuntimeError):
    """A plan that cannot go on with this cache, or that this model cannot run; the message says why."""


@dataclass(frozen=True)
class Slot:
    """Blocks that read the same stream; what leaves the slot is the mean of what they write.

    Args:
        blocks: one block index, or several different ones.
        kv: ``"each"`` keeps the K/V of every block; ``"authors_kv"`` keeps their mean alone, as the authors of
            "Transformer Layers as Painters" did: a token attends to its own K/V of each block, later tokens to
            the mean, so cached decode is not what one uncached pass gives.
    """

    blocks: tuple[int, ...]
    kv: KV = "each"

    def __post_init__(self) -> None:
        for block in listed("blocks", self.blocks, "block indices"):
            whole_number("a block of a slot", block)
        if not self.blocks or len(set(self.blocks)) != len(self.blocks):
            raise ValueError(f"a slot is one or more different blocks, got {self.blocks}; a repeat is a slot more.")
        if self.kv not in get_args(KV):
            raise ValueError(f"kv must be one of {', '.join(map(repr, get_args(KV)))}, got {self.kv!r}.")


@dataclass(frozen=True)
class Plan:
    """The blocks of a model of ``n_layers`` in the order in which they are to run.

    Plans are made by the class methods: :meth:`full`, :meth:`skip`, :meth:`repeat`, :meth:`middle_repeat`,
    :meth:`reverse`, :meth:`shuffle`, :meth:`swap`, :meth:`parallel`, :meth:`looped_parallel`, and
    :meth:`painters` for those of the paper by start layer; or from slots of your own.

    Raises:
        ValueError: no slot at all, or a block that the model does not have.

    Source: "Transformer Layers as Painters", Sun et al. 2024, arXiv 2407.09298, section 2.

    >>> Plan.skip(6, [2, 3]).order
    (0, 1, 4, 5)
    >>> Plan(4, (Slot((0,)), Slot((1, 2)), Slot((3,)))).describe()
    '0, mean(1-2), 3'
    """

    n_layers: int
    slots: tuple[Slot, ...] = field(repr=False)

    def __post_init__(self) -> None:
        whole_number("n_layers", self.n_layers, least=1)
        if not isinstance(self.slots, tuple) or not all(isinstance(slot, Slot) for slot in self.slots):
            raise ValueError(
                f"slots must be a tuple of Slot, such as (Slot((0,)), Slot((1, 2))), got {self.slots!r:.80}. "
                "Blocks one after the other are Plan.of(n_layers, order)."
            )
        if not self.slots:
            raise ValueError("a plan must run at least one block: with none there is no K/V to continue from.")
        outside = sorted({block for block in self.order if not 0 <= block < self.n_layers})
        if outside:
            raise ValueError(f"blocks {outside}: the model has blocks 0 to {self.n_layers - 1}.")

    def __repr__(self) -> str:
        return f"Plan({self.n_layers} layers: {self.describe()})"

    # --- what it says -----------------------------------------------------------------------------------

    @functools.cached_property
    def order(self) -> tuple[int, ...]:
        """Every run of every block, in the order in which they run."""
        return tuple(block for slot in self.slots for block in slot.blocks)

    @functools.cached_property
    def skipped(self) -> frozenset[int]:
        """Blocks that never run."""
        return frozenset(range(self.n_layers)) - set(self.order)

    @functools.cached_property
    def has_parallel(self) -> bool:
        """True where several blocks read one stream."""
        return any(len(slot.blocks) > 1 for slot in self.slots)

    @functools.cached_property
    def only_skips(self) -> bool:
        """True where the blocks that run do so once, one by one and in the model's own order."""
        return not self.has_parallel and all(a < b for a, b in zip(self.order, self.order[1:], strict=False))

    @functools.cached_property
    def kv_slots(self) -> tuple[tuple[int, ...], ...]:
        """For each slot, where the cache keeps the K/V of each of its blocks.

        >>> Plan.looped_parallel(4, [1, 2], times=2).kv_slots
        ((0,), (1, 2), (3, 4), (5,))
        >>> Plan.looped_parallel(4, [1, 2], times=2, kv="authors_kv").kv_slots
        ((0,), (1, 1), (2, 2), (3,))
        """
        found, used = [], 0
        for slot in self.slots:
            n = len(slot.blocks)
            kept = 1 if slot.kv == "authors_kv" else n
            found.append(tuple(range(used, used + n)) if kept == n else (used,) * n)
            used += kept
        return tuple(found)

    @functools.cached_property
    def kv_blocks(self) -> tuple[int, ...]:
        """For each place in the cache, the block whose K/V it keeps (of a mean: the first of them)."""
        first: dict[int, int] = {}
        for slot, places in zip(self.slots, self.kv_slots, strict=True):
            for block, place in zip(slot.blocks, places, strict=True):
                first.setdefault(place, block)
        return tuple(first[place] for place in range(len(first)))

    @functools.cached_property
    def steps(self) -> tuple[tuple[Slot, tuple[int, ...] | None], ...]:
        """The slots with their places in the cache; where a plan only skips, also each skipped block, with None."""
        steps: list[tuple[Slot, tuple[int, ...] | None]] = list(zip(self.slots, self.kv_slots, strict=True))
        if self.only_skips:
            steps += [(Slot((layer,)), None) for layer in self.skipped]
            steps.sort(key=lambda step: step[0].blocks)
        return tuple(steps)

    def kept_kv(self, earlier: "Plan") -> tuple[int, ...] | None:
        """Which of an earlier plan's places in the cache this one goes on with; None where it does not only skip more.

        >>> Plan.skip(5, [1, 3]).kept_kv(Plan.skip(5, [3]))
        (0, 2, 3)
        >>> Plan.skip(5, [1]).kept_kv(Plan.skip(5, [3])) is None
        True
        """
        if self.n_layers != earlier.n_layers:
            return None
        kept: list[int] = []
        theirs = iter(zip(earlier.slots, earlier.kv_slots, strict=True))
        for slot in self.slots:
            places = next((places for one, places in theirs if one == slot), None)
            if places is None:
                return None
            kept += sorted(set(places))
        return tuple(kept)

    def describe(self) -> str:
        """The plan in one line, runs of neighbours drawn together.

        >>> Plan.looped_parallel(8, [2, 3, 4], times=3).describe()
        '0-1, 3x mean(2-4), 5-7'
        """
        parts: list[str] = []
        singles: list[int] = []

        def close() -> None:
            if singles:
                parts.extend(ranges(singles))
                singles.clear()

        for slot, repeated in groupby(self.slots):
            times = len(list(repeated))
            if len(slot.blocks) == 1 and times == 1:
                singles.append(slot.blocks[0])
                continue
            close()
            one = ranges(slot.blocks)
            text = one[0] if len(slot.blocks) == 1 else f"mean({', '.join(one)})"
            text += " kept as one K/V" if slot.kv == "authors_kv" else ""
            parts.append(text if times == 1 else f"{times}x {text}")
        close()
        return ", ".join(parts)

    def as_json(self, decode: "Plan | None" = None) -> str:
        """What a trace keeps of the plan: its text, the block of each row, and the rows' blocks that do not run.

        ``decode`` is the plan of later passes, where there is another.

        >>> Plan.skip(3, [1]).as_json()
        '{"plan": "0, 2", "blocks": [0, 1, 2], "idle": [1]}'
        """
        rows = range(self.n_layers) if self.only_skips else self.order
        idle = self.skipped if self.only_skips else frozenset()
        kept: dict[str, Any] = {"plan": self.describe(), "blocks": list(rows)}
        if decode is not None:
            kept["decode"] = decode.describe()
            idle |= decode.skipped if decode.only_skips else frozenset()
        return json.dumps({**kept, "idle": sorted(idle)})

    # --- how it is made ---------------------------------------------------------------------------------

    @classmethod
    def full(cls, n_layers: int) -> "Plan":
        """The model as it is."""
        return cls.of(n_layers, range(whole_number("n_layers", n_layers, least=1)))

    @classmethod
    def of(cls, n_layers: int, order: Iterable[SupportsIndex]) -> "Plan":
        """Blocks one after the other, in any order, as often as they stand there.

        >>> Plan.of(3, [0, 2, 1, 1]).describe()
        '0, 2, 2x 1'
        """
        return cls(n_layers, tuple(Slot((_index(block),)) for block in listed("order", order, "block indices")))

    @classmethod
    def skip(cls, n_layers: int, layers: Iterable[SupportsIndex]) -> "Plan":
        """Without these blocks; negative ones count from the last."""
        dropped = {_resolve(n_layers, layer) for layer in listed("layers", layers, "block indices")}
        n = whole_number("n_layers", n_layers, least=1)
        return cls.of(n, [layer for layer in range(n) if layer not in dropped])

    @classmethod
    def repeat(cls, n_layers: int, layers: Sequence[SupportsIndex], times: int = 2) -> "Plan":
        """A stretch of neighbouring layers, run ``times`` times over.

        >>> Plan.repeat(4, [1, 2]).order
        (0, 1, 2, 1, 2, 3)
        """
        stretch = _stretch(n_layers, layers)
        return cls._around(n_layers, stretch, [Slot((layer,)) for layer in stretch] * _times(times))

    @classmethod
    def middle_repeat(cls, n_layers: int, start: int) -> "Plan":
        """The paper's: the layer n_layers // 2 in place of every middle one.

        >>> Plan.middle_repeat(6, 0).order
        (0, 3, 3, 3, 3, 3)
        """
        middle = painters_middle(n_layers, start)
        return cls._around(n_layers, middle, [Slot((n_layers // 2,))] * len(middle))

    @classmethod
    def reverse(cls, n_layers: int, layers: Sequence[SupportsIndex]) -> "Plan":
        """A stretch of neighbouring layers backwards."""
        stretch = _stretch(n_layers, layers)
        return cls._around(n_layers, stretch, [Slot((layer,)) for layer in reversed(stretch)])

    @classmethod
    def shuffle(cls, n_layers: int, layers: Sequence[SupportsIndex], *, seed: int) -> "Plan":
        """A stretch of neighbouring layers in an order drawn with ``seed``."""
        stretch = _stretch(n_layers, layers)
        drawn = np.random.default_rng(whole_number("seed", seed)).permutation(stretch)
        return cls._around(n_layers, stretch, [Slot((int(layer),)) for layer in drawn])

    @classmethod
    def swap(cls, n_layers: int, layer: int) -> "Plan":
        """``layer`` and the one after it, each in the other's place."""
        first = _resolve(n_layers, layer)
        if first == n_layers - 1:
            raise ValueError(f"layer {layer} is the last of {n_layers}: there is none after it to swap it with.")
        return cls.reverse(n_layers, [first, first + 1])

    @classmethod
    def parallel(cls, n_layers: int, layers: Sequence[SupportsIndex], *, kv: KV = "each") -> "Plan":
        """A stretch of neighbouring layers all at once: they read one stream, and their mean goes on."""
        return cls.looped_parallel(n_layers, layers, times=1, kv=kv)

    @classmethod
    def looped_parallel(cls, n_layers: int, layers: Sequence[SupportsIndex], *, times: int, kv: KV = "each") -> "Plan":
        """:meth:`parallel`, ``times`` times over; ``kv="authors_kv"`` keeps one mean K/V per time."""
        stretch = _stretch(n_layers, layers)
        return cls._around(n_layers, stretch, [Slot(tuple(stretch), kv)] * _times(times))

    @classmethod
    def painters(
        cls, n_layers: int, kind: Kind, start: int, *, seed: int | None = None, times: int = 3, kv: KV = "each"
    ) -> "Plan":
        """The plans of "Transformer Layers as Painters": something is done to the middle layers.

        Layers 0..s and e..L-1 run as ever, with s = ``start`` and e = L - s; the middle is s+1 .. e-1.

        Args:
            kind: ``"skip"``, ``"middle_repeat"``, ``"reverse"``, ``"random"`` (needs ``seed``; the paper averages
                several), ``"parallel"``, ``"looped_parallel"``.
            start: 0 .. (L-2)/2.
            times: the number of repeats in ``"looped_parallel"``; the paper's figure has 3.
            kv: the K/V that the parallel kinds keep, ``"each"`` or ``"authors_kv"``.

        >>> Plan.painters(8, "reverse", 1).describe()
        '0-1, 6, 5, 4, 3, 2, 7'
        """
        middle = painters_middle(n_layers, start)
        if kind == "skip":
            return cls.skip(n_layers, middle)
        if kind == "middle_repeat":
            return cls.middle_repeat(n_layers, start)
        if kind == "reverse":
            return cls.reverse(n_layers, middle)
        if kind == "random":
            if seed is None:
                raise ValueError("painters('random', ...) needs seed=: the paper takes the mean over several.")
            return cls.shuffle(n_layers, middle, seed=seed)
        if kind == "parallel":
            return cls.parallel(n_layers, middle, kv=kv)
        if kind == "looped_parallel":
            return cls.looped_parallel(n_layers, middle, times=times, kv=kv)
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(map(repr, get_args(Kind)))}.")

    @classmethod
    def _around(cls, n_layers: int, stretch: Sequence[int], slots: list[Slot]) -> "Plan":
        """These slots in the place of a stretch of layers."""
        before = [Slot((layer,)) for layer in range(stretch[0])]
        after = [Slot((layer,)) for layer in range(stretch[-1] + 1, n_layers)]
        return cls(n_layers, (*before, *slots, *after))


def painters_middle(n_layers: int, start: int) -> list[int]:
    """The middle layers s+1 .. L-s-1 of "Transformer Layers as Painters" for s = ``start``.

    >>> painters_middle(8, 1), painters_middle(8, 3)
    ([2, 3, 4, 5, 6], [4])
    """
    whole_number("n_layers", n_layers, least=2)
    if not 0 <= whole_number("start", start, least=ANY) <= (n_layers - 2) // 2:
        raise ValueError(f"start must be 0 to {(n_layers - 2) // 2} in a model of {n_layers} layers, got {start}.")
    return list(range(start + 1, n_layers - start))


def _resolve(n_layers: int, layer: Any) -> int:
    whole_number("n_layers", n_layers, least=1)
    if isinstance(layer, bool) or not hasattr(layer, "__index__") or not -n_layers <= int(layer) < n_layers:
        raise ValueError(f"layer {layer!r}: the model has layers 0 to {n_layers - 1} (or -1 to {-n_layers}).")
    return int(layer) % n_layers


def _index(block: Any) -> int:
    if isinstance(block, bool) or not hasattr(block, "__index__"):
        raise ValueError(f"a plan is made of block indices (int), got {block!r}.")
    return int(block)


def _stretch(n_layers: int, layers: Iterable[Any]) -> list[int]:
    found = [_resolve(n_layers, layer) for layer in listed("layers", layers, "block indices")]
    if not found or found != list(range(found[0], found[0] + len(found))):
        raise ValueError(f"layers must be neighbours in rising order, such as range(3, 9); got {found}.")
    return found


def _times(times: int) -> int:
    return whole_number("times", times, least=1)
