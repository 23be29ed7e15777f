"""One prompt with one block at a time bypassed, at the chosen positions alone: what both ablations run.

The block is bypassed as the effect ``bypass`` has it: its output is its input; K/V of these tokens inside the block
stay visible to the others. Blocks before it are not run again.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lacscope.guards._arguments import whole_number_or_none
from lacscope.model_measures._residuals import Residuals, rerun
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter

AblatedPhase = Literal["all", "prefill", "decode"]
PER_SAMPLE = ("sample", "layer")


@dataclass(frozen=True)
class Sample:
    """What is read of one prompt, the position from which on next tokens are scored, and where the block is idle."""

    ids: list[int]
    first: int
    bypassed: Bool[Tensor, " pos"]

    @property
    def n_predicted(self) -> int:
        return len(self.ids) - 1 - self.first


def _whole_pair(window: Any) -> bool:
    pair = window if isinstance(window, (tuple, list)) else ()
    return len(pair) == 2 and all(hasattr(one, "__index__") and not isinstance(one, bool) for one in pair)


def check_settings(responses: Any, phase: str, window: tuple[int, int] | None, max_tokens: int | None) -> None:
    """Raise ValueError for settings that do not go together."""
    if phase not in ("all", "prefill", "decode"):
        raise ValueError(f"phase must be 'all', 'prefill' or 'decode', got {phase!r}.")
    if phase == "decode" and responses is None:
        raise ValueError("phase='decode' bypasses the responses' tokens: give responses=.")
    if window is not None and phase != "all":
        raise ValueError(f"window={window} and phase={phase!r} both choose positions: give one of the two.")
    whole_number_or_none("max_tokens", max_tokens, least=1)
    if window is not None and not (_whole_pair(window) and 0 <= window[0] < window[1]):
        raise ValueError(f"window must be (start, stop) with 0 <= start < stop, got {window}.")
    if max_tokens is not None and responses is not None:
        raise ValueError("max_tokens cuts prompts, whose ends the responses follow: give one of the two.")


def bypassed_at(n_prompt: int, n_tokens: int, phase: str, window: tuple[int, int] | None) -> Bool[Tensor, " pos"]:
    """The positions at which the block is bypassed."""
    position = torch.arange(n_tokens)
    low, high = window or {"all": (0, n_tokens), "prefill": (0, n_prompt), "decode": (n_prompt, n_tokens)}[phase]
    return (position >= low) & (position < high)


def without_each(model: Model | Adapter, sample: Sample, read: Residuals) -> Iterator[Float[Tensor, "pos vocab"]]:
    """For each layer the log-probabilities of the scored next tokens without it."""
    bypassed = sample.bypassed.to(read.stream.device).unsqueeze(-1)
    for layer in range(read.n_layers):
        left = torch.where(bypassed, read.stream[layer], read.left[layer + 1])
        logits = rerun(model, read.tokens, layer + 1, left.unsqueeze(0), leaving=True, keep=sample.n_predicted + 1)
        yield torch.log_softmax(logits[0, :-1].float(), dim=-1)


def positions_bypassed(phase: str, window: tuple[int, int] | None, answer: str) -> str:
    """The same in words.

    >>> [positions_bypassed("all", window, "response") for window in ((0, 1), (1, 3), (1, sys.maxsize))]
    ['position 0', 'positions 1 to 2', 'positions 1 on']
    """
    if window is not None:
        first, last = window[0], window[1] - 1
        if window[1] == sys.maxsize:
            return f"positions {first} on"
        return f"position {first}" if first == last else f"positions {first} to {last}"
    return {"all": "all tokens", "prefill": "the prompt's tokens", "decode": f"the {answer}'s tokens"}[phase]
