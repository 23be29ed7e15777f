"""What a pass under ``readout`` ends with: per token, the stream after its last active block."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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


class ReadoutBuffer:
    """The stream after each token's last active block so far (h_0 before any), of the last ``kept`` positions.

    After the last block there is a row for each of ``readouts``; None: for each row that was read.
    """

    def __init__(self, kept: int | None, readouts: Readouts | None, ends_on_any_length: bool) -> None:
        self.kept, self.readouts, self.ends_on_any_length = kept, readouts, ends_on_any_length
        self._active: Tensor | None = None
        self._stream: Tensor | None = None

    def decided(self, void: Bool[Tensor, "*rule batch pos"]) -> None:
        """The voids of the block whose stream :meth:`update` is given next."""
        self._active = ~void
        if self.readouts is not None:
            wanted = self.readouts.on(void.device)
            self._active = self._active[wanted.rule, wanted.row]

    def update(self, stream: Float[Tensor, "batch pos d_model"]) -> None:
        """Take the stream where the block that it left is active."""
        n_kept = stream.shape[1] if self.kept is None else min(self.kept, stream.shape[1])
        stream = self._rows(stream)[:, stream.shape[1] - n_kept :]
        if self._stream is None:
            self._stream = stream
            return
        assert self._active is not None
        active = self._active[:, self._active.shape[1] - n_kept :].unsqueeze(-1)
        self._stream = torch.where(active.to(stream.device), stream, self._stream.to(stream.device))

    def ending(self, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "readout kept d_model"]:
        """What the last block hands on in place of its own stream."""
        self.update(stream)
        assert self._stream is not None
        rest = stream.shape[1] - self._stream.shape[1]
        if rest == 0 or (self.readouts is not None and self.ends_on_any_length):
            return self._stream
        # Some models give their last stream the shape that they were given to read (GPT-2).
        return torch.cat([self._rows(stream)[:, :rest], self._stream], dim=1)

    def _rows(self, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "readout pos d_model"]:
        return stream if self.readouts is None else stream[self.readouts.on(stream.device).row]
