"""The rules of one pass, asked together where their arithmetic is one."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lacscope.models.adapters import without_gradients
from lacscope.rules import HaltingRule, L2AdaptiveComputation, LayerView, RuleInPass
from lacscope.rules._base import scope_of
from lacscope.rules._scope import EVERYWHERE


class Alphas:
    """Rules of L2 Adaptive Computation that differ in alpha alone: one history serves all of them.

    What they give has a dimension ``rule`` where there are several.

    >>> Alphas.of([L2AdaptiveComputation(0.2), L2AdaptiveComputation(0.8)]).values
    [0.2, 0.8]
    >>> Alphas.of([L2AdaptiveComputation(0.2, unit="mlp")]) is None
    True
    """

    def __init__(self, values: list[float]) -> None:
        self.values = values
        self._on: dict[torch.device, Tensor] = {}

    @classmethod
    def of(cls, rules: Sequence[HaltingRule]) -> "Alphas | None":
        """The alphas of these rules, all of them on blocks and everywhere; None where they differ in more."""
        found = [
            float(rule.alpha)
            for rule in rules
            if type(rule) is L2AdaptiveComputation and rule.unit == "block" and scope_of(rule) == EVERYWHERE
        ]
        return cls(found) if rules and len(found) == len(rules) else None

    def voids(self, delta: Float[Tensor, "layer batch pos"]) -> Bool[Tensor, "*rule layer batch pos"]:
        """The voids of all layers of passes that are over."""
        return delta < self._thresholds(delta)

    def voids_of_rows(
        self, delta: Float[Tensor, "layer batch pos"], rule: Int[Tensor, " batch"]
    ) -> Bool[Tensor, "layer batch pos"]:
        """The voids of all layers, of each row under one of the rules."""
        return delta < self._there(delta.device)[rule].unsqueeze(-1) * self._spread(delta)

    def active(self, delta: Float[Tensor, "layer batch pos"]) -> Bool[Tensor, "*rule layer batch pos"]:
        """What is no void."""
        return delta >= self._thresholds(delta)

    def _thresholds(self, delta: Float[Tensor, "layer batch pos"]) -> Float[Tensor, "*rule layer batch pos"]:
        return self.scaled(self._spread(delta))

    @staticmethod
    def _spread(delta: Float[Tensor, "layer batch pos"]) -> Float[Tensor, "layer batch pos"]:
        # The first twice: with itself alone before them, layers 0 and 1 have a threshold of 0.
        before = torch.cat([delta[:1], delta[:-1]])
        return before.cummax(0).values - before.cummin(0).values

    def scaled(self, spread: Float[Tensor, "*layer batch pos"]) -> Float[Tensor, "*rule_layer batch pos"]:
        """The thresholds that a spread of deltas makes."""
        if len(self.values) == 1:
            return self.values[0] * spread
        return self._there(spread.device).view(-1, *[1] * spread.ndim) * spread

    def _there(self, device: torch.device) -> Float[Tensor, " rule"]:
        """The alphas on a device; copied there once."""
        if device not in self._on:
            self._on[device] = torch.tensor(self.values, dtype=torch.float32, device=device)
        return self._on[device]


class RulesInPass:
    """Asks every rule of a pass, with the states of its run. Several rules give a dimension ``rule``."""

    def __init__(
        self, rules: Sequence[HaltingRule], run_states: Sequence[dict[str, Any]], alphas: Alphas | None
    ) -> None:
        self.alphas = alphas
        self._rules = [RuleInPass(rule, state) for rule, state in zip(rules, run_states, strict=True)]
        self._extremes: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._rules)

    def voids(self, view: LayerView) -> Bool[Tensor, "*rule batch pos"]:
        """The voids of one unit."""
        with without_gradients() if torch.is_grad_enabled() else nullcontext():
            masks = [rule.voids(view) for rule in self._rules]
        return masks[0] if len(masks) == 1 else torch.stack(masks)

    def voids_by_norms(
        self, pre_norm: Float[Tensor, "batch pos"], post_norm: Float[Tensor, "batch pos"]
    ) -> Bool[Tensor, "*rule batch pos"]:
        """The voids of the next block, where the rules are ``alphas``."""
        assert self.alphas is not None
        delta = post_norm - pre_norm
        if self._extremes is None:
            self._extremes = delta, delta
            return (delta < 0).expand(len(self), *delta.shape) if len(self) > 1 else delta < 0
        # The layers of a model split over devices hand their norms over as they go.
        highest, lowest = (one.to(delta.device) for one in self._extremes)
        self._extremes = torch.maximum(highest, delta), torch.minimum(lowest, delta)
        return delta < self.alphas.scaled(highest - lowest)
