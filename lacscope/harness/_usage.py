"""What lm-eval's requests read: which tokens of a padded batch are real, and counts of active layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lacscope.traces._schema import PHASES

Request = tuple[Any, Sequence[int], Sequence[int]]


@dataclass
class Usage:
    """Sums over the tokens read so far. Memory does not grow with them.

    ``tokens`` and ``depth`` (the sum of exit depths) are by phase, ``active`` by phase and layer; ``scored``
    counts the positions whose logits are scored, ``early`` those of them that exit before the last block.
    """

    tokens: Int[np.ndarray, " phase"]
    active: Int[np.ndarray, "phase layer"]
    depth: Float[np.ndarray, " phase"]
    scored: int = 0
    early: int = 0

    @classmethod
    def nothing(cls, n_layers: int) -> "Usage":
        phases = len(PHASES)
        return cls(np.zeros(phases, dtype=np.int64), np.zeros((phases, n_layers), dtype=np.int64), np.zeros(phases))

    def add(
        self,
        voids: Bool[np.ndarray, "layer batch pos"],
        kept: Bool[np.ndarray, "batch pos"],
        position: Int[np.ndarray, "batch pos"],
    ) -> None:
        """Count one batch: ``kept`` tokens, with their position after the end of their prompt (negative in it)."""
        n_layers = len(voids)
        exits = (~voids * np.arange(1, n_layers + 1)[:, None, None]).max(axis=0) / n_layers
        for phase, tokens in enumerate((kept & (position < 0), kept & (position >= 0))):
            self.tokens[phase] += tokens.sum()
            self.active[phase] += (~voids & tokens).sum(axis=(1, 2))
            self.depth[phase] += exits[tokens].sum()
        # The prompt's last token is the first whose next-token distribution is looked at.
        scored = kept & (position >= -1)
        self.scored += int(scored.sum())
        self.early += int((scored & voids[-1]).sum())

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.tokens + other.tokens,
            self.active + other.active,
            self.depth + other.depth,
            self.scored + other.scored,
            self.early + other.early,
        )

    def report(self) -> dict[str, Any]:
        """As plain numbers; shares are None where no token was read."""
        by_phase: dict[str, dict[str, Any]] = {"tokens": {}, "usage": {}, "usage_by_layer": {}, "exit_depth": {}}
        for phase, tokens, active, depth in zip(PHASES, self.tokens, self.active, self.depth, strict=True):
            read = int(tokens)
            by_phase["tokens"][phase] = read
            by_phase["usage"][phase] = float(active.mean() / read) if read else None
            by_phase["usage_by_layer"][phase] = (active / read).tolist() if read else None
            by_phase["exit_depth"][phase] = float(depth / read) if read else None
        return {**by_phase, "scored": self.scored, "early": self.early}


class ScoredRows:
    """The rows that lm-eval's log-likelihood requests will send, by their tokens.

    lm-eval pads them on the right with zeros and says nothing of their lengths. A row is known again by its
    tokens up to the zeros at its end; of two that differ in real zeros there alone, lm-eval sends the longer first.
    """

    def __init__(self, requests: Sequence[Request], max_length: int, *, grouped: bool) -> None:
        longest: dict[Any, list[int]] = {}
        scored: dict[Any, int] = {}
        for index, (_, context, continuation) in enumerate(requests):
            whole = [*context, *continuation]
            # lm-eval reads a text once for all requests that differ in the last token only.
            key: Any = tuple(whole[:-1]) if grouped else index
            longest[key] = whole[-(max_length + 1) :][:-1]
            scored[key] = max(scored.get(key, 0), len(continuation))
        self._waiting: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for key, row in longest.items():
            self._waiting.setdefault(_without_zeros(row), []).append((len(row), len(row) - scored[key] + 1))
        for lengths in self._waiting.values():
            lengths.sort(reverse=True)

    def take(self, rows: Int[Tensor, "batch pos"]) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Lengths of a batch's rows and of their prompts, each row being sent once.

        Raises RuntimeError for a row that no request announced: another release of lm-eval, not a wrong count.
        """
        found = []
        for row in rows.tolist():
            waiting = self._waiting.get(_without_zeros(row))
            if not waiting:
                raise RuntimeError(
                    "lm-eval sent a row that none of its requests makes: its way of batching has changed. "
                    "lacscope is tested with lm-eval 0.4.13."
                )
            found.append(waiting.pop(0))
        lengths = torch.tensor(found)
        return lengths[:, 0], lengths[:, 1]


def _without_zeros(row: Sequence[int]) -> tuple[int, ...]:
    end = len(row)
    while end and row[end - 1] == 0:
        end -= 1
    return tuple(row[:end])
