"""One forward pass under a rule and an effect: every layer measured, judged and, maybe, edited."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lacscope.models.adapters import Execution, PartialPassError
from lacscope.models.adapters._private import edits_of
from lacscope.rules import LayerView, RuleInPass, Unit
from lacscope.tracing._program import Program
from lacscope.tracing._recorder import PassRecord


def _norm(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos"]:
    """L2 norm, accumulated in float32: in bfloat16 its rounding error exceeds many deltas."""
    if stream.dtype == torch.float64:
        return torch.linalg.vector_norm(stream.detach(), dim=-1).float()
    return torch.linalg.vector_norm(stream.detach(), dim=-1, dtype=torch.float32)


@dataclass(frozen=True)
class Readouts:
    """The readouts that one pass under several rules is to end with: which row's, and under which rule."""

    row: Int[Tensor, " readout"]
    rule: Int[Tensor, " readout"]
    _on: dict[torch.device, "Readouts"] = field(default_factory=dict, repr=False, compare=False)

    def on(self, device: torch.device) -> "Readouts":
        """The same where a layer is, in a model split over devices; moved there once a pass."""
        if device == self.row.device:
            return self
        if device not in self._on:
            self._on[device] = Readouts(self.row.to(device), self.rule.to(device))
        return self._on[device]


class HaltingPass:
    """One forward pass under a program: measures every layer, asks the rules, makes the edit.

    Keeps one stream at a time (and, for a readout, its buffer), and norms for the rest. ``alone`` says that no
    other hook stands on the residual points, so that a stream cannot have been edited in place unseen. ``kept``
    is how many last positions are read out (None: all). Several rules under ``readout`` need ``readouts``: after
    the last block the stream has a row for each of them. Under a plan (``execution``) layers stand in the order in
    which they are executed, and one that is skipped is a void that no rule is asked about.
    """

    def __init__(
        self,
        program: Program,
        *,
        run_states: Sequence[dict[str, Any]],
        step: Int[Tensor, "batch pos"] | None = None,
        position: Int[Tensor, "batch pos"] | None = None,
        valid: Bool[Tensor, "batch pos"] | None = None,
        sample: Int[Tensor, " batch"] | None = None,
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
        self.kept, self.readouts = kept, readouts
        self.alone = alone
        decode = None if step is None else step >= 0
        self.given = {"decode": decode, "step": step, "position": position, "valid": valid, "sample": sample}
        self.rules = [RuleInPass(rule, state) for rule, state in zip(program.rules, run_states, strict=True)]
        self.layerwise: dict[str, list[Tensor]] = {}
        self.void: list[Tensor] = []
        self.blocks: list[int] = []
        self.fired = 0
        self._inside = False
        self._resid_pre: Tensor | None = None
        self._pre_norm: Tensor | None = None
        self._mid: Tensor | None = None
        self._left: tuple[Tensor, int | None, Tensor] | None = None
        self._active: Tensor | None = None
        self._readout: Tensor | None = None

    @property
    def finished(self) -> bool:
        return self.fired == self.n_places and not self._inside

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
        if not self._inside or not self._is_due(layer):
            raise PartialPassError(self._out_of_order(layer))
        if point == "hook_attn_out":
            return self._sublayer("attn", layer, activation)
        if point == "hook_mlp_out":
            return self._sublayer("mlp", layer, activation)
        if point == "hook_resid_mid":
            self._mid = activation
            return None
        return self._leave(layer, activation)

    def _out_of_order(self, layer: int) -> str:
        return (
            f"block {layer} fired where block {self.fired} was due. The pass is partial (start_at_layer, "
            "stop_at_layer), hooks were removed on the way (reset_hooks), or the model was called again from "
            "inside a hook; lacscope.halting keeps nested calls apart, plain hooks cannot."
        )

    def _enter(self, layer: int, stream: Tensor) -> None:
        if self._inside or not self._is_due(layer):
            raise PartialPassError(self._out_of_order(layer))
        self._inside = True
        self.blocks.append(layer)
        self._resid_pre = stream
        self._pre_norm = self._known_norm(stream)
        self._keep("resid_pre_norm", self._pre_norm)
        if self.program.effect == "readout":
            self._update_readout(stream)

    def _known_norm(self, stream: Tensor) -> Tensor:
        """The norm measured as the stream left the last block, where nobody touched it since."""
        if self._left is not None:
            left, version, norm = self._left
            if left is stream and (self.alone if version is None else version == edits_of(stream)):
                return norm
        return _norm(stream)

    def _leave(self, layer: int, stream: Tensor) -> Tensor | None:
        assert self._resid_pre is not None
        assert self._pre_norm is not None
        candidate = _norm(stream)
        pre_norm = self._pre_norm.to(candidate.device)
        pre = self._resid_pre.to(stream.device)
        realised, out = candidate, stream
        if self.execution is not None and self.execution.idle:
            self._pass_idle(pre_norm)
        elif self.program.asks("block"):
            void = self._decide("block", layer, pre, stream, pre_norm, candidate)
            self.void.append(void)
            if self.program.effect == "bypass":
                out = torch.where(void.unsqueeze(-1), pre, stream)
                realised = torch.where(void, pre_norm, candidate)
            self._active = self._to_read_out(~void)
        self._keep("resid_post_norm", realised)
        self._keep("delta_norm", candidate - pre_norm)
        difference = stream.detach().float() - pre.detach().float()
        self._keep("update_norm", torch.linalg.vector_norm(difference, dim=-1))
        if "cos_pre_post" in self.program.measures:
            dot = (stream.detach().float() * pre.detach().float()).sum(-1)
            self._keep("cos_pre_post", dot / (candidate * pre_norm).clamp_min(torch.finfo(torch.float32).tiny))
        self._inside = False
        self._mid = None
        self.fired += 1
        if self.program.effect == "readout" and self.fired == self.n_places:
            self._update_readout(stream)
            out = self._final_stream(stream)
        # Inference tensors carry no version that would show an edit in place.
        self._left = (out, None if out.is_inference() else edits_of(out), realised)
        return None if out is stream else out

    def _pass_idle(self, pre_norm: Float[Tensor, "batch pos"]) -> None:
        """A block that the plan skips: a void for every token, and no part of any rule's history."""
        nothing = torch.zeros_like(pre_norm)
        if self.program.rules:
            void = torch.ones_like(pre_norm, dtype=torch.bool)
            self.void.append(void if len(self.rules) == 1 else torch.stack([void] * len(self.rules)))
            self._active = self._to_read_out(~self.void[-1])
        units: tuple[Unit, ...] = ("attn", "mlp")
        for unit in units:
            if f"{unit}_out_norm" in self.program.measures:
                self._keep(f"{unit}_out_norm", nothing)
            if self.program.asks(unit):
                self._keep(f"{unit}_delta_norm", nothing)
                if self.program.unit == "sublayers":
                    self._keep(f"{unit}_void", nothing + 1)

    def _sublayer(self, unit: Unit, layer: int, written: Tensor) -> Tensor | None:
        """A sublayer's output, still to be added to the stream."""
        assert self._resid_pre is not None
        if f"{unit}_out_norm" in self.program.measures:
            self._keep(f"{unit}_out_norm", _norm(written))
        if not self.program.asks(unit):
            return None
        base = (self._resid_pre if self._mid is None else self._mid).to(written.device)
        base_norm = _norm(base)
        candidate = base + written
        candidate_norm = _norm(candidate)
        self._keep(f"{unit}_delta_norm", candidate_norm - base_norm)
        void = self._decide(unit, layer, base, candidate, base_norm, candidate_norm)
        if self.program.unit == "sublayers":
            self._keep(f"{unit}_void", void.float())
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
        masks = [rule.voids(view) for rule in self.rules]
        return masks[0] if len(masks) == 1 else torch.stack(masks)

    def _update_readout(self, stream: Tensor) -> None:
        """Carry, per token, the stream after its last active block so far (h_0 before any)."""
        n_kept = stream.shape[1] if self.kept is None else min(self.kept, stream.shape[1])
        stream = stream[:, stream.shape[1] - n_kept :]
        if self.readouts is not None:
            stream = stream[self.readouts.on(stream.device).row]
        if self._readout is None:
            self._readout = stream
            return
        assert self._active is not None
        active = self._active[:, self._active.shape[1] - n_kept :].unsqueeze(-1)
        self._readout = torch.where(active.to(stream.device), stream, self._readout.to(stream.device))

    def _to_read_out(self, active: Bool[Tensor, "*rule batch pos"]) -> Bool[Tensor, "readout pos"] | None:
        """The masks in the rows of the readouts; None where nothing is read out."""
        if self.program.effect != "readout":
            return None
        if self.readouts is None:
            return active
        wanted = self.readouts.on(active.device)
        return active[wanted.rule, wanted.row]

    def _final_stream(self, stream: Tensor) -> Tensor:
        assert self._readout is not None
        rest = stream.shape[1] - self._readout.shape[1]
        if rest == 0 or (self.readouts is not None and self.program.ends_on_any_length):
            return self._readout
        # Some models give their last stream the shape that they were given to read (GPT-2).
        rows = stream if self.readouts is None else stream[self.readouts.on(stream.device).row]
        return torch.cat([rows[:, :rest], self._readout], dim=1)

    def _keep(self, name: str, values: Float[Tensor, "batch pos"]) -> None:
        self.layerwise.setdefault(name, []).append(values.detach())

    def record(self, tokens: Tensor | None, mask: Tensor | None) -> PassRecord:
        """What is kept of the finished pass: arrays of layers x batch x pos."""
        home = self.layerwise["resid_pre_norm"][0].device
        layerwise = {name: torch.stack([layer.to(home) for layer in layers]) for name, layers in self.layerwise.items()}
        void = torch.stack([layer.to(home) for layer in self.void], dim=-3) if self.void else None
        shape = layerwise["resid_pre_norm"].shape[1:]
        # Copies: a view of one column would keep everything that was read so far, once for each step.
        mask = torch.ones(shape, dtype=torch.bool, device=home) if mask is None else mask.to(home, copy=True)
        tokens = torch.full(shape, -1, device=home) if tokens is None else tokens.detach().clone()
        return PassRecord(tokens, mask, layerwise, void, tuple(self.blocks))
