"""One rule in one forward pass: its state, its scope, and which tokens have latched."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from lacscope.rules._base import HaltingRule, latches, needs_of, scope_of
from lacscope.rules._view import LayerView

FIELDS_OF = {
    "phase": ("decode", "step"),
    "position": ("position",),
    "valid": ("valid",),
    "sample": ("sample",),
    "head": ("head",),
}


class RuleInPass:
    """Asks one rule about each unit of one pass, and makes of its answers what its scope and latch say."""

    def __init__(self, rule: HaltingRule, run_state: dict[str, Any]) -> None:
        self.rule, self.run_state = rule, run_state
        self._scope, self._latches = scope_of(rule), latches(rule)
        self._needs = sorted(needs_of(rule))
        self._hidden = [name for need, names in FIELDS_OF.items() if need not in self._needs for name in names]
        self._states: dict[str, dict[str, Any]] = {}
        self._latched: dict[str, Tensor] = {}

    def voids(self, view: LayerView) -> Bool[Tensor, "batch pos"]:
        """The voids of one unit. ``view`` holds all that is known, the candidate included.

        Raises ValueError where something that the rule needs is not known, or where it answers with something else
        than a bool for each token.
        """
        pass_state = self._states.setdefault(view.unit, {})
        run_state = self.run_state.setdefault(view.unit, {}) if self.rule.unit == "sublayers" else self.run_state
        seen = self._seen(view, self.rule.decides == "after")
        void = self.rule.voids(seen, pass_state, run_state)
        if hasattr(self.rule, "watch"):
            self.rule.watch(self._seen(view, True), pass_state, run_state)
        if not isinstance(void, Tensor) or void.dtype != torch.bool or void.shape != view.shape:
            got = f"{void.dtype} {tuple(void.shape)}" if isinstance(void, Tensor) else type(void).__name__
            raise ValueError(f"{self.rule!r}.voids must return a bool tensor of shape {tuple(view.shape)}, got {got}.")
        void = self._scope.restrict(void, seen)
        return self._latch(void, seen) if self._latches else void

    def _latch(self, void: Bool[Tensor, "batch pos"], view: LayerView) -> Bool[Tensor, "batch pos"]:
        if view.unit in self._latched:
            void = void | self._latched[view.unit].to(void.device)
        self._latched[view.unit] = void
        # A protected layer is active also for a token that has latched.
        return self._scope.restrict(void, view)

    def _seen(self, view: LayerView, after: bool) -> LayerView:
        """The view with what the rule and its scope need, and nothing else."""
        changes: dict[str, Any] = dict.fromkeys(self._hidden)
        for need in self._needs:
            for name in FIELDS_OF[need]:
                value = getattr(view, name)
                if value is None:
                    raise ValueError(f"{self.rule!r} needs {', '.join(self._unknown(view))}, but {_why(view)}")
                changes[name] = value.to(view.device) if isinstance(value, Tensor) else value
        if not after:
            changes |= {"resid_post": None, "resid_post_norm": None}
        return replace(view, **changes)

    def _unknown(self, view: LayerView) -> list[str]:
        return [need for need in self._needs if any(getattr(view, name) is None for name in FIELDS_OF[need])]


def _why(view: LayerView) -> str:
    if view.valid is not None:
        return "this is a call from inside a hook, whose rows are no samples of the run."
    return (
        "the pass was started from embeddings without an attention mask: pass attention_mask= to the model, or "
        "token ids."
    )
