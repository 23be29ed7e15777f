"""Passes on the wrapped model alone, of which as much as can be is measured and judged once they are over.

``observe`` and ``readout`` decide nothing inside a pass, and L2 Adaptive Computation needs norms alone: its voids are
left to whoever reads the record. Every other pass is :class:`~lacscope.tracing._halting_pass.HaltingPass`'s.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lacscope.rules import LayerView
from lacscope.tracing._norms import changes_of, cosine_of, norm_of, update_norm_of
from lacscope.tracing._program import Program
from lacscope.tracing._readout import Readouts
from lacscope.tracing._recorder import PassRecord, Run
from lacscope.tracing._rules_in_pass import RulesInPass


def settled_pass(
    program: Program,
    run: Run,
    given: Mapping[str, Any],
    *,
    n_new: int | None,
    kept: int | None,
    readouts: Readouts | None,
) -> "SettledPass | None":
    """What records a pass of ``n_new`` tokens a row, ``kept`` of them read out; None where it cannot be settled.

    ``given`` is what a rule may ask of the tokens.
    """
    by_norms = not program.rules or program.alphas is not None
    if program.effect == "bypass":
        return BypassedStep(program) if n_new == 1 and by_norms and len(program.rules) == 1 else None
    if n_new == 1:
        rules = None if by_norms else RulesInPass(program.rules, run.rule_states, None)
        return SettledStep(program, readouts, rules, given)
    if n_new is not None and by_norms and (program.effect == "observe" or kept == 1):
        return SettledPrefill(program, readouts)
    return None


class SettledPass(ABC):
    """One pass of the wrapped model alone: what its blocks show, and the record of it."""

    execution = None

    def __init__(self, program: Program) -> None:
        self.program = program
        self.n_places, self.fired = program.n_layers, 0
        self.cosine = "cos_pre_post" in program.measures
        self.layerwise: dict[str, Float[Tensor, "layer batch pos"]] = {}
        self.void: Bool[Tensor, "*rule layer batch pos"] | None = None

    @property
    def finished(self) -> bool:
        return self.fired == self.n_places

    def callback(self, point: str, layer: int, activation: Tensor) -> Tensor | None:
        """What is done at the residual points."""
        if point == "hook_resid_pre":
            # What a later block reads is what the one before it has handed on.
            if layer == 0:
                self.enter(activation)
            return None
        self.fired += 1
        return self.leave(activation)

    @abstractmethod
    def enter(self, stream: Float[Tensor, "batch pos d_model"]) -> None:
        """The stream that the first block reads."""

    @abstractmethod
    def leave(self, stream: Float[Tensor, "batch pos d_model"]) -> Tensor | None:
        """The stream that a block has made; what is returned, where that is not None, is handed on in its place."""

    def record(self, tokens: Tensor | None, mask: Tensor | None) -> PassRecord:
        """What is kept of the finished pass: arrays of layers x batch x pos."""
        assert tokens is not None
        assert mask is not None
        return PassRecord(tokens.detach(), mask, self.layerwise, self.void, tuple(range(self.n_places)))


class SettledStep(SettledPass):
    """A step of one token under ``observe`` or ``readout``.

    It keeps its n_layers + 1 streams of ``[batch, 1, d_model]``, and as much again while they are stacked. ``rules``
    are those that have to be shown the streams.
    """

    def __init__(
        self, program: Program, readouts: Readouts | None, rules: RulesInPass | None, given: Mapping[str, Any]
    ) -> None:
        super().__init__(program)
        self.readouts, self.rules, self.given = readouts, rules, given
        self.streams: list[Tensor] = []

    def enter(self, stream: Float[Tensor, "batch 1 d_model"]) -> None:
        self.streams.append(stream)

    def leave(self, stream: Float[Tensor, "batch 1 d_model"]) -> Tensor | None:
        self.streams.append(stream)
        if not self.finished:
            return None
        streams, self.streams = torch.stack(self.streams), []
        norms = norm_of(streams)
        self.layerwise = changes_of(streams[:-1], streams[1:], norms[:-1], norms[1:], cosine=self.cosine)
        if self.rules is not None:
            voids = [self.rules.voids(self._view(layer, streams, norms)) for layer in range(self.n_places)]
            self.void = torch.stack(voids, dim=-3)
        if self.program.effect == "observe":
            return None
        active = _active(self.program, self.layerwise["delta_norm"]) if self.void is None else ~self.void
        return _read_out(self.program, streams, active, self.readouts)

    def _view(self, layer: int, streams: Tensor, norms: Tensor) -> LayerView:
        around = streams[layer], norms[layer], streams[layer + 1], norms[layer + 1]
        return LayerView(layer, self.n_places, *around, head=self.program.head, **self.given)


class SettledPrefill(SettledPass):
    """A longer pass under ``observe`` or ``readout``, measured layer by layer.

    Of each stream it keeps the last position, where that is to be read out.
    """

    def __init__(self, program: Program, readouts: Readouts | None) -> None:
        super().__init__(program)
        self.readouts = readouts
        self.ends: list[Tensor] = []
        self._layers: dict[str, list[Tensor]] = {}
        self._before: tuple[Tensor, Tensor]  # the stream that the next block reads, and its norm

    def enter(self, stream: Float[Tensor, "batch pos d_model"]) -> None:
        self._go_on(stream, norm_of(stream))

    def leave(self, stream: Float[Tensor, "batch pos d_model"]) -> Tensor | None:
        pre, pre_norm = self._before
        norm = norm_of(stream)
        for name, values in changes_of(pre, stream, pre_norm, norm, cosine=self.cosine).items():
            self._layers.setdefault(name, []).append(values)
        self._go_on(stream, norm)
        if not self.finished:
            return None
        del self._before
        self.layerwise, self._layers = {name: torch.stack(values) for name, values in self._layers.items()}, {}
        if self.program.effect == "observe":
            return None
        ends, self.ends = torch.stack(self.ends), []
        active = _active(self.program, self.layerwise["delta_norm"][..., -1:])
        read_out = _read_out(self.program, ends, active, self.readouts)
        if self.program.ends_on_any_length:
            return read_out
        # Some models give their last stream the shape that they were given to read (GPT-2).
        rows = stream if self.readouts is None else stream[self.readouts.on(stream.device).row]
        return torch.cat([rows[:, :-1], read_out], dim=1)

    def _go_on(self, stream: Tensor, norm: Tensor) -> None:
        self._before = stream, norm
        if self.program.effect == "readout":
            self.ends.append(stream[:, -1:].clone())


class BypassedStep(SettledPass):
    """A step of one token under ``bypass`` at one alpha: it decides on the way, and measures the rest once it is over.

    It keeps the streams that blocks read and those that they would have written, n_layers of ``[batch, 1, d_model]``
    each, and as much again while they are stacked.
    """

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.streams: list[Tensor] = []  # that were handed on, the one that entered first
        self.candidates: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._deltas: Tensor

    def enter(self, stream: Float[Tensor, "batch 1 d_model"]) -> None:
        norm = norm_of(stream)
        self.streams.append(stream)
        self._norms.append(norm)
        self._deltas = norm.new_empty((self.n_places, *norm.shape))

    def leave(self, stream: Float[Tensor, "batch 1 d_model"]) -> Tensor:
        assert self.program.alphas is not None
        layer, pre, pre_norm = self.fired - 1, self.streams[-1], self._norms[-1]
        norm = norm_of(stream)
        delta = torch.sub(norm, pre_norm, out=self._deltas[layer])
        if layer < 2:
            void = delta < 0  # at most one delta before it, so the threshold is 0
        else:
            lowest, highest = torch.aminmax(self._deltas[:layer], dim=0)
            void = delta < self.program.alphas.scaled(highest - lowest)
        out = torch.where(void.unsqueeze(-1), pre, stream)
        self._norms.append(torch.where(void, pre_norm, norm))
        self.candidates.append(stream)
        self.streams.append(out)
        if self.finished:
            self._settle()
        return out

    def _settle(self) -> None:
        norms, pre, post = torch.stack(self._norms), torch.stack(self.streams[:-1]), torch.stack(self.candidates)
        self.layerwise = {
            "resid_pre_norm": norms[:-1],
            "resid_post_norm": norms[1:],
            "delta_norm": self._deltas,
            "update_norm": update_norm_of(pre, post),
        }
        if self.cosine:
            self.layerwise["cos_pre_post"] = cosine_of(pre, post, norms[:-1], norm_of(post))
        self.streams, self.candidates, self._norms = [], [], []


def _active(program: Program, delta: Float[Tensor, "layer batch 1"]) -> Bool[Tensor, "*rule layer batch 1"]:
    assert program.alphas is not None
    return program.alphas.active(delta)


def _read_out(
    program: Program,
    streams: Float[Tensor, "stream batch 1 d_model"],
    active: Bool[Tensor, "*rule layer batch 1"],
    readouts: Readouts | None,
) -> Float[Tensor, "readout 1 d_model"]:
    """The stream after each token's last active block."""
    last = (active * program.places(streams.device)).amax(-3)
    if readouts is None:
        return streams.gather(0, last.view(1, -1, 1, 1).expand(1, -1, 1, streams.shape[-1]))[0]
    wanted = readouts.on(streams.device)
    return streams[last[wanted.rule, wanted.row, 0], wanted.row]
