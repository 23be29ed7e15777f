"""One forward pass under a rule and an effect: every layer measured, judged and, maybe, edited."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lacscope.models.adapters import Execution, PartialPassError
from lacscope.rules import LayerView, Unit
from lacscope.tracing._norms import Norms, norm_of
from lacscope.tracing._program import Program
from lacscope.tracing._readout import ReadoutBuffer, Readouts
from lacscope.tracing._recorder import PassRecord
from lacscope.tracing._rules_in_pass import RulesInPass


@dataclass
class _Block:
    """A block under way: the stream that entered it, its norm, and the stream between attention and MLP."""

    resid_pre: Tensor
    norm: Tensor
    mid: Tensor | None = None


class HaltingPass:
    """One forward pass under a program: measures every layer, asks the rules, makes the edit.

    Keeps one stream at a time (and, for a readout, its buffer), and norms for the rest. ``alone`` says that no
    other hook stands on the residual points, so that a stream cannot have been edited in place unseen. ``given`` is
    what a rule may ask of the tokens (fields of :class:`~lacscope.rules.LayerView`). ``kept`` is how many last
    positions are read out (None: all). Several rules under ``readout`` need ``readouts``: after the last block the
    stream has a row for each of them. Under a plan (``execution``) layers stand in the order in which they are
    executed, and one that is skipped is a void that no rule is asked about.
    """

    def __init__(
        self,
        program: Program,
        *,
        run_states: Sequence[dict[str, Any]],
        given: Mapping[str, Any] | None = None,
        alone: bool = False,
        kept: int | None = None,
        readouts: Readouts | None = None,
        execution: Execution | None = None,
    ) -> None:
        if execution is not None and execution.parallel:
            raise ValueError(
                f"the model runs the plan {execution.text}, in which several blocks read one stream: none of them is "
                "earlier than the others, so no history of layers can be kept. Trace or halt under a plan without "
                "parallel slots."
            )
        self.program, self.execution = program, execution
        self.norms = Norms(alone)
        self.readout = None
        if program.effect == "readout":
            self.readout = ReadoutBuffer(kept, readouts, program.ends_on_any_length)
        self.given = {} if given is None else given
        self.rules = RulesInPass(program.rules, run_states, program.alphas)
        self.void: list[Tensor] = []
        self.blocks: list[int] = []
        self.fired = 0
        self._block: _Block | None = None

    @property
    def finished(self) -> bool:
        return self.fired == self.n_places and self._block is None

    @property
    def n_places(self) -> int:
        """How often a block fires in this pass."""
        return self.program.n_layers if self.execution is None else self.execution.n_places

    def _is_due(self, layer: int) -> bool:
        return self.fired == (layer if self.execution is None else self.execution.place)

    def callback(self, point: str, layer: int, activation: Tensor) -> Tensor | None:
        """What the hook at ``blocks.{layer}.{point}`` does."""
        if point == "hook_resid_pre":
            self._enter(layer, activation)
            return None
        block = self._block
        if block is None or not self._is_due(layer):
            raise PartialPassError(self._out_of_order(layer))
        if point == "hook_attn_out":
            return self._sublayer("attn", layer, block, activation)
        if point == "hook_mlp_out":
            return self._sublayer("mlp", layer, block, activation)
        if point == "hook_resid_mid":
            block.mid = activation
            return None
        return self._leave(layer, block, activation)

    def _out_of_order(self, layer: int) -> str:
        return (
            f"block {layer} fired where block {self.fired} was due. The pass is partial (start_at_layer, "
            "stop_at_layer), hooks were removed on the way (reset_hooks), or the model was called again from "
            "inside a hook; lacscope.halting keeps nested calls apart, plain hooks cannot."
        )

    def _enter(self, layer: int, stream: Tensor) -> None:
        if self._block is not None or not self._is_due(layer):
            raise PartialPassError(self._out_of_order(layer))
        self.blocks.append(layer)
        self._block = _Block(stream, self.norms.entering(stream))
        self.norms.keep("resid_pre_norm", self._block.norm)
        if self.readout is not None:
            self.readout.update(stream)

    def _leave(self, layer: int, block: _Block, stream: Tensor) -> Tensor | None:
        candidate = norm_of(stream)
        pre_norm = block.norm.to(candidate.device)
        pre = block.resid_pre.to(stream.device)
        realised, out = candidate, stream
        if self.execution is not None and self.execution.idle:
            self._pass_idle(pre_norm)
        elif self.program.asks("block"):
            void = self._decide("block", layer, pre, stream, pre_norm, candidate)
            self._keep_void(void)
            if self.program.effect == "bypass":
                out = torch.where(void.unsqueeze(-1), pre, stream)
                realised = torch.where(void, pre_norm, candidate)
        self.norms.keep("resid_post_norm", realised)
        self.norms.keep_change(pre, stream, pre_norm, candidate, cosine="cos_pre_post" in self.program.measures)
        self._block = None
        self.fired += 1
        if self.readout is not None and self.fired == self.n_places:
            out = self.readout.ending(stream)
        self.norms.left(out, realised)
        return None if out is stream else out

    def _keep_void(self, void: Bool[Tensor, "*rule batch pos"]) -> None:
        self.void.append(void)
        if self.readout is not None:
            self.readout.decided(void)

    def _pass_idle(self, pre_norm: Float[Tensor, "batch pos"]) -> None:
        """A block that the plan skips: a void for every token, and no part of any rule's history."""
        nothing = torch.zeros_like(pre_norm)
        if self.program.rules:
            void = torch.ones_like(pre_norm, dtype=torch.bool)
            self._keep_void(void if len(self.rules) == 1 else torch.stack([void] * len(self.rules)))
        units: tuple[Unit, ...] = ("attn", "mlp")
        for unit in units:
            if f"{unit}_out_norm" in self.program.measures:
                self.norms.keep(f"{unit}_out_norm", nothing)
            if self.program.asks(unit):
                self.norms.keep(f"{unit}_delta_norm", nothing)
                if self.program.unit == "sublayers":
                    self.norms.keep(f"{unit}_void", nothing + 1)

    def _sublayer(self, unit: Unit, layer: int, block: _Block, written: Tensor) -> Tensor | None:
        """A sublayer's output, still to be added to the stream."""
        if f"{unit}_out_norm" in self.program.measures:
            self.norms.keep(f"{unit}_out_norm", norm_of(written))
        if not self.program.asks(unit):
            return None
        base = (block.resid_pre if block.mid is None else block.mid).to(written.device)
        base_norm = norm_of(base)
        candidate = base + written
        candidate_norm = norm_of(candidate)
        self.norms.keep(f"{unit}_delta_norm", candidate_norm - base_norm)
        void = self._decide(unit, layer, base, candidate, base_norm, candidate_norm)
        if self.program.unit == "sublayers":
            self.norms.keep(f"{unit}_void", void.float())
            # A layer is a void where neither of its sublayers writes anything.
            void_before = self.void.pop() if len(self.void) > self.fired else None
            self.void.append(void if void_before is None else void_before.to(void.device) & void)
        else:
            self.void.append(void)
        if self.program.effect != "bypass":
            return None
        return torch.where(void.unsqueeze(-1), torch.zeros((), dtype=written.dtype, device=written.device), written)

    def _decide(
        self, unit: Unit, layer: int, pre: Tensor, post: Tensor, pre_norm: Tensor, post_norm: Tensor
    ) -> Bool[Tensor, "*rule batch pos"]:
        if self.rules.alphas is not None:
            return self.rules.voids_by_norms(pre_norm, post_norm)
        view = LayerView(
            layer,
            self.program.n_layers,
            pre,
            pre_norm,
            post,
            post_norm,
            unit=unit,
            head=self.program.head,
            place=self.fired,
            n_places=self.n_places,
            **self.given,
        )
        return self.rules.voids(view)

    def record(self, tokens: Tensor | None, mask: Tensor | None) -> PassRecord:
        """What is kept of the finished pass: arrays of layers x batch x pos."""
        kept = self.norms.layerwise
        home = kept["resid_pre_norm"][0].device
        layerwise = {name: torch.stack([layer.to(home) for layer in layers]) for name, layers in kept.items()}
        void = torch.stack([layer.to(home) for layer in self.void], dim=-3) if self.void else None
        shape = layerwise["resid_pre_norm"].shape[1:]
        # Copies: a view of one column would keep everything that was read so far, once for each step.
        mask = torch.ones(shape, dtype=torch.bool, device=home) if mask is None else mask.to(home, copy=True)
        tokens = torch.full(shape, -1, device=home) if tokens is None else tokens.detach().clone()
        return PassRecord(tokens, mask, layerwise, void, tuple(self.blocks))
