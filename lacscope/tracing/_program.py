"""What one call asks of its forward passes, checked against the model."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int
from torch import Tensor

from lacscope.models._checks import require_head, require_sublayers
from lacscope.models.adapters import Adapter
from lacscope.rules import Effect, HaltingRule, L2AdaptiveComputation, Unit, check_effect, needs_of
from lacscope.traces._options import Logits, Tokenwise
from lacscope.traces._schema import TOKENWISE_MEASURES
from lacscope.tracing._rules_in_pass import Alphas

RESIDUAL_POINTS = ("hook_resid_pre", "hook_resid_post")


@dataclass(frozen=True)
class Program:
    """What is measured, decided and edited in each pass, generated, and read of the logits."""

    rules: tuple[HaltingRule, ...]
    effect: Effect
    n_layers: int
    parallel: bool = False
    ends_on_any_length: bool = False
    head: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)
    measures: frozenset[str] = frozenset()
    max_new_tokens: int = 0
    logits: Logits = "none"
    tokenwise: Tokenwise = "all"
    given_answers: bool = False
    _places: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @functools.cached_property
    def alphas(self) -> Alphas | None:
        """The rules' alphas, where all are L2 Adaptive Computation and differ in nothing else."""
        return Alphas.of(self.rules)

    @functools.cached_property
    def needs(self) -> frozenset[str]:
        """What has to be known of the tokens for the rules to be asked."""
        return frozenset().union(*map(needs_of, self.rules))

    def places(self, device: torch.device) -> Int[Tensor, "layer 1 1"]:
        """The layers counted from 1, on a device."""
        if device not in self._places:
            self._places[device] = torch.arange(1, self.n_layers + 1, device=device).view(-1, 1, 1)
        return self._places[device]

    @property
    def unit(self) -> Unit:
        return self.rules[0].unit if self.rules else "block"

    def asks(self, unit: Unit) -> bool:
        """True where the rules decide on this unit."""
        return bool(self.rules) and (self.unit == unit or (self.unit == "sublayers" and unit != "block"))

    def points(self) -> list[str]:
        """Hook points of a block that this program needs, in the order they fire."""
        names = ["hook_resid_pre"]
        if self.asks("attn") or "attn_out_norm" in self.measures:
            names.append("hook_attn_out")
        if self.asks("mlp") and not self.parallel:
            names.append("hook_resid_mid")
        if self.asks("mlp") or "mlp_out_norm" in self.measures:
            names.append("hook_mlp_out")
        return [*names, "hook_resid_post"]

    @property
    def inside_blocks(self) -> bool:
        """True where a hook point inside a block is needed, by one of the rules or of the measures."""
        return any(set(one.points()) - set(RESIDUAL_POINTS) for one in [self, *self.of_each_rule()])

    @property
    def measures_logits(self) -> bool:
        return not self.measures.isdisjoint(TOKENWISE_MEASURES)

    def kept(self, longest_answer: int) -> int | None:
        """How many last positions of a batch's first pass need logits; None: all of them."""
        if self.logits == "all" or (self.measures_logits and self.tokenwise == "all"):
            return None
        return longest_answer + 1 if self.given_answers and (self.measures_logits or self.logits == "last") else 1

    def of_each_rule(self) -> list["Program"]:
        """The same for each rule by itself."""
        return [replace(self, rules=(rule,)) for rule in self.rules]


def make_program(
    adapter: Adapter, rules: Sequence[HaltingRule], effect: Effect, measures: Sequence[str] = ()
) -> Program:
    """Check rule, effect and measures against each other and the model."""
    for rule in rules or (None,):
        check_effect(rule, effect)
    if effect == "observe" and len({rule.unit for rule in rules}) > 1:
        raise ValueError("rules of one call must share their unit (block, attn or mlp); trace them apart.")
    if effect == "observe" and len(rules) > 1 and rules[0].unit == "sublayers":
        raise ValueError(
            "rules of unit 'sublayers' have two masks each, of attention and of MLP: observe them one at a time."
        )
    one_each = len(rules) == 1 or (rules and effect != "observe")
    if "threshold" in measures and not (one_each and all(isinstance(rule, L2AdaptiveComputation) for rule in rules)):
        raise ValueError("measure 'threshold' needs one L2AdaptiveComputation rule; no other rule has a threshold.")
    program = Program(
        tuple(rules),
        effect,
        adapter.n_layers,
        adapter.parallel_blocks,
        adapter.ends_on_any_length,
        adapter.logits_of if any("head" in needs_of(rule) for rule in rules) else None,
        frozenset(measures),
    )
    if program.head is not None:
        require_head(adapter)
    if program.inside_blocks:
        require_sublayers(adapter)
    return program
