"""A pass on the wrapped model alone, of which as much as can be is measured and judged once it is over."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lacscope.rules import LayerView
from lacscope.tracing._norms import changes_of, norm_of
from lacscope.tracing._program import Program
from lacscope.tracing._readout import Readouts
from lacscope.tracing._recorder import PassRecord
from lacscope.tracing._rules_in_pass import RulesInPass


class SettledPass:
    """One pass of the wrapped model alone.

    ``observe`` and ``readout`` decide nothing inside it. A step of one token keeps its n_layers + 1 streams of
    ``[batch, 1, d_model]``, and as much again while they are stacked and measured (under ``bypass``, which decides on
    the way, twice that). A longer pass is measured layer by layer, and keeps of each stream the last position where
    that is to be read out. L2 Adaptive Computation needs norms alone, and its voids are left to whoever reads the
    record; other rules are shown the streams, so a step of theirs is settled here and a longer pass is not
    (:class:`~lacscope.tracing._halting_pass.HaltingPass`).
    """

    execution = None

    def __init__(
        self,
        program: Program,
        rules: RulesInPass,
        given: dict[str, Any],
        *,
        one_token: bool,
        readouts: Readouts | None = None,
    ) -> None:
        self.program, self.rules, self.given, self.readouts = program, rules, given, readouts
        self.n_places = program.n_layers
        self.layerwise: dict[str, Float[Tensor, "layer batch pos"]] = {}
        self.void: Bool[Tensor, "*rule layer batch pos"] | None = None
        self.fired = 0
        self._one_token = one_token
        self._cosine = "cos_pre_post" in program.measures
        self._streams: list[Tensor] = []
        self._layers: dict[str, list[Tensor]] = {}
        self._norms: list[Tensor] = []  # under bypass
        self._candidates: list[Tensor] = []
        self._deltas: Tensor | None = None
        self._before: tuple[Tensor, Tensor] | None = None  # the stream that the block under way has read, and its norm

    @staticmethod
    def serves(program: Program, n_new: int | None, kept: int | None) -> bool:
        """True for a pass of ``n_new`` tokens a row, ``kept`` of them read out, that can be settled after it."""
        if program.effect == "bypass":
            return n_new == 1 and program.alphas is not None and len(program.rules) == 1
        if n_new is None:
            return False
        by_norms = not program.rules or program.alphas is not None
        return n_new == 1 or (by_norms and (program.effect == "observe" or kept == 1))

    @property
    def finished(self) -> bool:
        return bool(self.layerwise)

    def callback(self, point: str, layer: int, activation: Tensor) -> Tensor | None:
        """What is done at the residual points."""
        if point == "hook_resid_pre":
            # What a later block reads is what the one before it has handed on.
            if layer == 0:
                self._take(activation)
            return None
        out = self._bypassed(activation) if self.program.effect == "bypass" else None
        if out is None:
            self._take(activation)
        self.fired += 1
        return self._settle(activation) if self.fired == self.n_places and out is None else out

    def _take(self, stream: Float[Tensor, "batch pos d_model"]) -> None:
        if self._one_token:
            self._streams.append(stream)
            return
        norm = norm_of(stream)
        if self._before is not None:
            pre, pre_norm = self._before
            measured = {"resid_pre_norm": pre_norm, "resid_post_norm": norm}
            for name, values in (measured | changes_of(pre, stream, pre_norm, norm, cosine=self._cosine)).items():
                self._layers.setdefault(name, []).append(values)
        self._before = stream, norm
        if self.program.effect == "readout":
            self._streams.append(stream[:, -1:].clone())

    def _bypassed(self, candidate: Float[Tensor, "batch 1 d_model"]) -> Float[Tensor, "batch 1 d_model"]:
        """What the block hands on under ``bypass``: its stream, or the one that it has read."""
        assert self.program.alphas is not None
        layer, pre = self.fired, self._streams[-1]
        norm = norm_of(candidate)
        if layer == 0:
            self._norms.append(norm_of(pre))
            self._deltas = torch.empty((self.n_places, *norm.shape), dtype=norm.dtype, device=norm.device)
        assert self._deltas is not None
        delta = torch.sub(norm, self._norms[-1], out=self._deltas[layer])
        if layer < 2:
            void = delta < 0
        else:
            lowest, highest = torch.aminmax(self._deltas[:layer], dim=0)
            void = delta < self.program.alphas.scaled(highest - lowest)
        out = torch.where(void.unsqueeze(-1), pre, candidate)
        self._norms.append(torch.where(void, self._norms[-1], norm))
        self._candidates.append(candidate)
        self._streams.append(out)
        if layer == self.n_places - 1:
            self._settle_bypassed()
        return out

    def _settle_bypassed(self) -> None:
        assert self._deltas is not None
        norms, pre, post = torch.stack(self._norms), torch.stack(self._streams[:-1]), torch.stack(self._candidates)
        # Of what the block would have written: the change and the turn are its candidate's.
        candidate_norms = self._deltas if not self._cosine else norm_of(post)
        changes = changes_of(pre, post, norms[:-1], candidate_norms, cosine=self._cosine)
        kept = {"resid_pre_norm": norms[:-1], "resid_post_norm": norms[1:]}
        self.layerwise = kept | changes | {"delta_norm": self._deltas}
        self._streams, self._norms, self._candidates, self._deltas = [], [], [], None

    def _settle(self, last: Float[Tensor, "batch pos d_model"]) -> Tensor | None:
        streams = torch.stack(self._streams) if self._streams else None
        self._streams, self._before = [], None
        if self._one_token:
            assert streams is not None
            norms = norm_of(streams)
            changes = changes_of(streams[:-1], streams[1:], norms[:-1], norms[1:], cosine=self._cosine)
            self.layerwise = {"resid_pre_norm": norms[:-1], "resid_post_norm": norms[1:], **changes}
            if self.program.rules and self.program.alphas is None:
                views = [self._view(layer, streams, norms) for layer in range(self.n_places)]
                self.void = torch.stack([self.rules.voids(view) for view in views], dim=-3)
        else:
            self.layerwise = {name: torch.stack(values) for name, values in self._layers.items()}
            self._layers = {}
        if self.program.effect == "observe":
            return None
        assert streams is not None
        read_out = self._readout(streams)
        rest = last.shape[1] - 1
        if rest == 0 or self.program.ends_on_any_length:
            return read_out
        # Some models give their last stream the shape that they were given to read (GPT-2).
        before = last if self.readouts is None else last[self.readouts.on(last.device).row]
        return torch.cat([before[:, :rest], read_out], dim=1)

    def _view(self, layer: int, streams: Tensor, norms: Tensor) -> LayerView:
        return LayerView(
            layer,
            self.n_places,
            streams[layer],
            norms[layer],
            streams[layer + 1],
            norms[layer + 1],
            head=self.program.head,
            **self.given,
        )

    def _readout(self, streams: Float[Tensor, "stream batch 1 d_model"]) -> Float[Tensor, "readout 1 d_model"]:
        """The stream after each last token's last active block."""
        if self.program.alphas is not None:
            active = self.program.alphas.active(self.layerwise["delta_norm"][..., -1:])
        else:
            assert self.void is not None
            active = ~self.void[..., -1:]
        last = (active * self.program.places(streams.device)).amax(-3)
        if self.readouts is None:
            return streams.gather(0, last.view(1, -1, 1, 1).expand(1, -1, 1, streams.shape[-1]))[0]
        wanted = self.readouts.on(streams.device)
        return streams[last[wanted.rule, wanted.row, 0], wanted.row]

    def record(self, tokens: Tensor | None, mask: Tensor | None) -> PassRecord:
        """What is kept of the finished pass: arrays of layers x batch x pos."""
        assert tokens is not None
        assert mask is not None
        return PassRecord(tokens.detach(), mask, self.layerwise, self.void, tuple(range(self.n_places)))
