"""What the prompt used fixes what decode skips."""

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lacscope.guards._arguments import is_real, whole_number
from lacscope.rules._base import Decides, Grain, HaltingRule, check_rule, describe_rule, has_history, needs_of, scope_of
from lacscope.rules._in_pass import RuleInPass
from lacscope.rules._lac import L2AdaptiveComputation
from lacscope.rules._scope import IN_DECODE, Scope, check_scope
from lacscope.rules._view import LayerView, Unit

_LAC = L2AdaptiveComputation()


@dataclass(frozen=True)
class PromptDecided:
    """The prefill's usage fixes, for each sequence, which layers decode skips.

    While the prompt is read nothing is void; ``inner`` says which layers it would have halted, and their usage is
    the share of the prompt's tokens that it would not have. In decode the least used layers are voids for every
    token. So what is skipped is known before decode begins, and can save compute there.

    Source: the idea of "FiRST: Finetuning Router-Selective Transformers", arXiv 2410.12513, without its trained
    routers.

    Args:
        skip: the number of layers that decode skips: the least used of those that ``scope`` does not protect; of equals
            the deeper first.
        min_usage: the share below which every layer that the prompt used less is skipped instead; give one of the two.
        inner: the rule that measures; it sees the prompt alone.
        scope: the tokens and layers where there may be voids, always in decode; protected layers are never chosen.

    Raises:
        ValueError: not exactly one of ``skip`` and ``min_usage``, or a scope outside decode; when used, a run without
            a prompt, or a prompt and its answer in one pass, where the usage is known too late (generate, or read
            the prompt first).

    >>> PromptDecided(skip=4).unit
    'block'
    """

    skip: int | None = None
    min_usage: float | None = None
    inner: HaltingRule = _LAC
    scope: Scope = field(default=IN_DECODE, kw_only=True, repr=False)
    decides: ClassVar[Decides] = "before"
    grain: ClassVar[Grain] = "sequence"

    def __post_init__(self) -> None:
        if (self.skip is None) == (self.min_usage is None):
            raise ValueError(f"give one of skip= and min_usage=, got skip={self.skip} and min_usage={self.min_usage}.")
        if self.skip is not None:
            whole_number("skip", self.skip)
        if self.min_usage is not None and not (is_real(self.min_usage) and 0 <= self.min_usage <= 1):
            raise ValueError(f"min_usage is a share of the prompt's tokens, 0 to 1; got {self.min_usage!r}.")
        check_rule(self.inner)
        if scope_of(self.inner).phase == "decode":
            raise ValueError(
                f"inner measures what the prompt uses, and {self.inner!r} has voids in decode alone: give it "
                "scope=Scope() or Scope(phase='prefill')."
            )
        check_scope(self.scope)
        if self.scope.phase != "decode":
            raise ValueError(f"the prompt decides for decode: scope must have phase='decode', got {self.scope!r}.")

    @property
    def unit(self) -> Unit:
        return self.inner.unit

    @property
    def needs(self) -> frozenset[str]:
        return needs_of(self.inner) | {"phase", "valid"}

    @property
    def history(self) -> bool:
        return has_history(self.inner)

    def describe(self) -> dict[str, Any]:
        """What a trace keeps of the rule: its numbers, and the inner rule described."""
        return {"skip": self.skip, "min_usage": self.min_usage, "inner": json.loads(describe_rule(self.inner))}

    def watch(self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]) -> None:
        """Count, at the prompt's tokens, those for which the layer would have been active."""
        assert view.decode is not None
        assert view.valid is not None
        if "prompt" not in pass_state:
            prompt = view.valid & ~view.decode
            # Once a pass: a GPU that is asked is waited for.
            pass_state["prompt"] = prompt if bool(prompt.any()) else None
        if pass_state["prompt"] is None:
            return
        prompt = pass_state["prompt"].to(view.device)
        run_state.pop("skipped", None)
        if "inner" not in pass_state:
            pass_state["inner"] = RuleInPass(self.inner, run_state.setdefault("inner", {}))
        active = ~pass_state["inner"].voids(view)
        counts = torch.stack([(active & prompt).sum(-1), prompt.sum(-1)])
        # A prompt may be read in several passes.
        before = run_state.setdefault("counts", {})
        before[view.layer] = before[view.layer] + counts if view.layer in before else counts

    def voids(
        self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]
    ) -> Bool[Tensor, "batch pos"]:
        assert view.decode is not None
        assert view.valid is not None
        if "skipped" not in pass_state:
            reading = (view.decode & view.valid).any(-1)
            mixed = reading & (~view.decode & view.valid).any(-1)
            any_reading, any_mixed = torch.stack([reading.any(), mixed.any()]).tolist()
            if any_mixed:
                raise ValueError(
                    f"{self!r} is given a prompt and its answer in one pass: what the prompt used is known only once "
                    "it has been read. Generate the answer, or read the prompt in a pass of its own."
                )
            if any_reading and "skipped" not in run_state:
                run_state["skipped"] = self._skipped(view, run_state).to(view.device)
            pass_state["skipped"] = run_state["skipped"] if any_reading else None
        if pass_state["skipped"] is None:
            return torch.zeros_like(view.decode)
        return pass_state["skipped"][view.layer].to(view.device).unsqueeze(-1) & view.decode

    def _skipped(self, view: LayerView, run_state: dict[str, Any]) -> Bool[Tensor, "layer batch"]:
        counts = {layer: found.cpu() for layer, found in run_state.get("counts", {}).items()}
        if not counts:
            raise ValueError(f"{self!r} decodes in a run whose prompt it has not seen: read the prompt under it too.")
        # Under a plan not every layer ran.
        layers = [layer for layer in self.scope.open_layers(view.n_layers) if layer in counts]
        nothing = torch.zeros_like(next(iter(counts.values())))
        active, tokens = torch.stack([counts.get(layer, nothing) for layer in range(view.n_layers)], dim=1)
        usage = (active / tokens.clamp(min=1)).numpy()
        return torch.from_numpy(np.stack([self._chosen(row, layers) for row in usage.T], axis=1))

    def _chosen(self, usage: Float[np.ndarray, " layer"], layers: list[int]) -> Bool[np.ndarray, " layer"]:
        chosen = np.zeros(len(usage), dtype=bool)
        if self.min_usage is not None:
            chosen[layers] = usage[layers] < self.min_usage
            return chosen
        assert self.skip is not None
        if self.skip > len(layers):
            raise ValueError(f"skip={self.skip} of {len(layers)} layers: those that run and scope does not protect.")
        chosen[sorted(layers, key=lambda layer: (usage[layer], -layer))[: self.skip]] = True
        return chosen
