"""What one call of ``trace`` reads, and what is measured on the logits as they come."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lacscope.guards._temporary import Temporary, together
from lacscope.models._checks import require_full
from lacscope.models.adapters import inference, users_hooks, without_gradients
from lacscope.models.adapters._weights import in_subclasses
from lacscope.tracing._program import Program
from lacscope.tracing._session import HaltingSession, run_session


@dataclass(frozen=True)
class Batch:
    """Some samples, left-padded to the longest of them. ``members`` are their places among all inputs.

    ``padded`` is False where all are of one length.
    """

    members: list[int]
    sample_ids: list[int]
    prompt_lengths: Int[Tensor, " row"]
    ids: Int[Tensor, "row pos"]
    mask: Bool[Tensor, "row pos"]
    padded: bool

    @property
    def answer_lengths(self) -> Int[Tensor, " row"]:
        """Tokens given after each prompt."""
        return self.mask.sum(-1) - self.prompt_lengths


@dataclass(frozen=True)
class Batches:
    """Samples in batches of similar length."""

    rows: list[list[int]]
    prompt_lengths: list[int]
    sample_ids: list[int]
    size: int
    pad_id: int
    device: torch.device

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Batch]:
        order = sorted(range(len(self.rows)), key=lambda i: len(self.rows[i]))
        for start in range(0, len(order), self.size):
            yield self._batch(order[start : start + self.size])

    def _batch(self, members: list[int]) -> Batch:
        longest = max(len(self.rows[i]) for i in members)
        ids = torch.full((len(members), longest), self.pad_id)
        mask = torch.zeros((len(members), longest), dtype=torch.bool)
        for row, i in enumerate(members):
            ids[row, longest - len(self.rows[i]) :] = torch.tensor(self.rows[i])
            mask[row, longest - len(self.rows[i]) :] = True
        return Batch(
            members,
            [self.sample_ids[i] for i in members],
            torch.tensor([self.prompt_lengths[i] for i in members], device=self.device),
            ids.to(self.device),
            mask.to(self.device),
            any(len(self.rows[i]) < longest for i in members),
        )


def prepared(session: HaltingSession, fwd_hooks: list[tuple[Any, Callable[..., Any]]]) -> Temporary[None]:
    """The user's hooks, then ours, on the leanest path that serves both."""
    adapter = session.adapter
    if session.bare is not None:
        return together(without_gradients() if session.bare.in_subclasses else inference(), run_session(session))
    foreign = bool(fwd_hooks) or adapter.user_hooked()
    lean = together()
    if foreign or session.program.inside_blocks:
        require_full(adapter)
    else:
        lean = adapter.lean()
    # Tensors caught by a user's hook under inference_mode could not be trained on; quanto's do not run under it.
    plain = foreign or in_subclasses(adapter.model)
    return together(
        without_gradients() if plain else inference(),
        adapter.evaluating(),
        lean,
        users_hooks(adapter.model, list(adapter.hook_points()), fwd_hooks),
        run_session(session),
    )


@dataclass
class Reading:
    """Measures of the logits (surprisal, rank, entropy), which no hook sees, since logits belong to no layer.

    Each row is one sequence. Where rules generate apart, a sample has one sequence for each rule, and all of them read
    the same prompt: ``first[s]`` is the row of ``batch`` that holds the prompt of sequence s.
    """

    program: Program
    batch: Batch
    first: Int[Tensor, " sequence"]
    _kept: list[tuple[Int[Tensor, " going"], Float[Tensor, "going pos vocab"]]] = field(default_factory=list)
    _last: Float[np.ndarray, "sequence vocab"] | None = None
    _columns: dict[str, list[Float[Tensor, "sequence pos"]]] = field(default_factory=dict)
    _before: Float[Tensor, "going vocab"] | None = None

    def read_prompts(self, logits: Float[Tensor, "sequence read vocab"]) -> None:
        """The first pass: prompts, and given answers."""
        batch, everything = self.batch, torch.arange(len(self.first), device=logits.device)
        if self.program.logits == "last":
            prompt_end = -1 - batch.answer_lengths[self.first]
            self._last = logits[everything, prompt_end].float().cpu().numpy()
        width = logits.shape[1]
        position = batch.mask.long().cumsum(-1) - 1
        start = 0 if self.program.tokenwise == "all" else batch.prompt_lengths.unsqueeze(-1)
        wanted = (batch.mask & (position >= start))[self.first, -width:]
        # The first real token of a left-padded row follows a pad, which predicts nothing.
        predicted = wanted & (position > 0)[self.first, -width:]
        self._measure(batch.ids[self.first], logits, everything, wanted, predicted)

    def read_token(
        self,
        tokens: Int[Tensor, " going"],
        logits: Float[Tensor, "going 1 vocab"],
        going: Int[Tensor, " going"],
        before: Int[Tensor, " going"],
    ) -> None:
        """A decode step of the sequences ``going``, which were rows ``before`` of the step before it."""
        if self._before is not None:
            self._before = self._before[before]
        everywhere = torch.ones_like(tokens, dtype=torch.bool).unsqueeze(-1)
        self._measure(tokens.unsqueeze(-1), logits, going, everywhere, everywhere)

    def _measure(
        self,
        tokens: Int[Tensor, "going pos"],
        logits: Float[Tensor, "going read vocab"],
        going: Int[Tensor, " going"],
        wanted: Bool[Tensor, "going read"],
        predicted: Bool[Tensor, "going read"],
    ) -> None:
        if self.program.logits == "all":
            # Both on the CPU: a GPU's places pick nothing from what lies there.
            self._kept.append((going.cpu(), logits.float().cpu()))
        if not self.program.measures_logits:
            return
        logits = logits.float()
        read = tokens[:, -logits.shape[1] :]
        found: dict[str, tuple[Tensor, Tensor]] = {}
        if "entropy" in self.program.measures:
            found["entropy"] = _entropy(logits), wanted
        for name, measure in (("surprisal", _surprisal), ("rank", _rank)):
            if name in self.program.measures:
                parts = [measure(logits[:, :-1], read[:, 1:])]
                if self._before is None:
                    parts.insert(0, torch.full_like(logits[:, :1, 0], torch.nan))
                else:
                    parts.insert(0, measure(self._before.unsqueeze(1), read[:, :1]))
                found[name] = torch.cat(parts, dim=1), predicted
        for name, (values, where) in found.items():
            column = torch.full((len(self.first), tokens.shape[1]), torch.nan, device=logits.device)
            column[going, -logits.shape[1] :] = values.masked_fill(~where, torch.nan)
            self._columns.setdefault(name, []).append(column)
        self._before = logits[:, -1]

    def tokenwise(self, sequences: Int[Tensor, " chosen"]) -> dict[str, Float[Tensor, "chosen pos"]]:
        """The measures of these sequences at every column read so far."""
        return {name: torch.cat([part[sequences] for part in parts], dim=1) for name, parts in self._columns.items()}

    def logits_of(self, sequence: int, n_tokens: int) -> Float[np.ndarray, "..."] | None:
        """Logits at the last prompt token, or at each of the sequence's ``n_tokens`` tokens; None if not asked for."""
        if self.program.logits != "all":
            return None if self._last is None else self._last[sequence]
        rows = [logits[going == sequence][0].numpy() for going, logits in self._kept if bool((going == sequence).any())]
        pads = int((~self.batch.mask[self.first[sequence]]).sum())
        return np.concatenate(rows)[pads : pads + n_tokens]


def _surprisal(logits: Float[Tensor, "row pos vocab"], tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos"]:
    return -torch.log_softmax(logits, dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def _rank(logits: Float[Tensor, "row pos vocab"], tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos"]:
    # Of logits: a log-softmax may round two of them to one.
    return (logits > logits.gather(-1, tokens.unsqueeze(-1))).sum(-1).float()


def _entropy(logits: Float[Tensor, "row pos vocab"]) -> Float[Tensor, "row pos"]:
    log_probs = torch.log_softmax(logits, dim=-1)
    return -(log_probs.exp() * log_probs).sum(-1)
