"""Many rules under ``readout`` at the price of little more than one.

A readout changes what is unembedded and nothing before it: neither the inner stream nor the KV cache. So one
prefill serves every rule. In decode the rules that have sampled the same tokens for a sample go on sharing
the row that reads them; a row is divided where its rules disagree.

A *sequence* is one sample under one rule, a *row* what the model reads.
"""

import weakref
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lacscope.models._checks import require_one_run
from lacscope.models.adapters import Adapter, BareModel, first_keys, identity_of
from lacscope.traces._provenance import Progress
from lacscope.traces._schema import SampleTrace
from lacscope.tracing._batches import Batch, Batches, Reading, prepared
from lacscope.tracing._program import Program
from lacscope.tracing._readout import Readouts
from lacscope.tracing._recorder import Recorder, Run
from lacscope.tracing._sampling import Sampler
from lacscope.tracing._session import HaltingSession, Rows

LOGIT_BYTES = 2**30


class RuleKeepsStateError(RuntimeError):
    """A rule carries something from pass to pass in its run_state, so it needs passes of its own."""


def run_branches(
    adapter: Adapter,
    program: Program,
    batches: Batches,
    sampler: Sampler,
    progress: Progress | None,
    bare: BareModel | None = None,
) -> list[list[SampleTrace]]:
    """Each rule's samples, equal to a run of that rule alone but for float32 rounding; on ``bare`` where given.

    Raises RuleKeepsStateError for a rule that writes to its run_state: its rows may be divided.
    """
    n_rules = len(program.rules)
    batches = _within_memory(program, batches, adapter.vocab_size)
    found: list[dict[int, SampleTrace]] = [{} for _ in range(n_rules)]
    session = HaltingSession(adapter, program, Recorder(), bare=bare)
    with prepared(session, []):
        for batch in batches:
            samples = _BranchingBatch(session, batch, sampler).run()
            for sequence, sample in samples.items():
                rule, row = divmod(sequence, len(batch.members))
                found[rule][batch.members[row]] = sample
            if progress is not None:
                progress(len(found[0]), len(batches))
    return [[samples[i] for i in range(len(batches))] for samples in found]


def _within_memory(program: Program, batches: Batches, vocab_size: int) -> Batches:
    """Batches whose first pass has no more than a gigabyte of logits, nor more than one rule's at every position."""
    n_rules = len(program.rules)
    answers = [len(row) - prompt for row, prompt in zip(batches.rows, batches.prompt_lengths, strict=True)]
    kept = program.kept(max(answers))
    size = batches.size if kept is not None else batches.size // n_rules
    positions = max(len(row) for row in batches.rows) if kept is None else kept
    return replace(batches, size=max(1, min(size, LOGIT_BYTES // (4 * vocab_size * positions * n_rules))))


class _BranchingBatch:
    """One batch under all rules. Sequence ``rule * rows + row`` begins on that row of the batch.

    Which sequence is on which row is kept on the host: a step waits for the device once, for what was sampled.
    """

    def __init__(self, session: HaltingSession, batch: Batch, sampler: Sampler) -> None:
        self.session, self.batch, self.sampler = session, batch, sampler
        self.adapter, self.program, self.recorder = session.adapter, session.program, session.recorder
        self.stop_ids = session.adapter.stop_ids()
        n_rows, n_rules = len(batch.members), len(self.program.rules)
        self.row = np.tile(np.arange(n_rows), n_rules)  # of each sequence that goes on
        self.rule = np.repeat(np.arange(n_rules), n_rows)
        self.going = np.arange(n_rules * n_rows)
        self.reading = Reading(self.program, batch, self._there(self.row))
        self.sample_ids, self.mask, self.n_read = batch.sample_ids, batch.mask, batch.mask.shape[1]
        self.found: dict[int, SampleTrace] = {}

    def _there(self, places: Int[np.ndarray, " place"]) -> Int[Tensor, " place"]:
        """Places on the model's device."""
        return torch.as_tensor(places, device=self.batch.ids.device)

    @property
    def _run(self) -> Run:
        return self.recorder.open_runs[0]

    def run(self) -> dict[int, SampleTrace]:
        """The samples by sequence."""
        self._prefill()
        for remaining in range(self.program.max_new_tokens - 1, -1, -1):
            sampled = self.sampler(self.logits[:, -1]).cpu().numpy()
            ended = np.isin(sampled, list(self.stop_ids)) | (remaining == 0)
            self._finish(ended, sampled)
            if ended.all():
                break
            self._decode(~ended, sampled)
        if self.program.max_new_tokens == 0:
            self._finish(np.ones_like(self.row, dtype=bool), None)
        return self.found

    def _readouts(self) -> Readouts:
        both = torch.as_tensor(np.stack([self.row, self.rule]), device=self.batch.ids.device)  # one copy, not two
        return Readouts(both[0], both[1])

    def _prefill(self) -> None:
        self.recorder.clear()
        self.sampler.start([self.sample_ids[row] for row in self.row])
        kept = self.program.kept(int(self.batch.answer_lengths.max()))
        rows = Rows(self.batch.prompt_lengths, None, self.sample_ids, kept, self._readouts(), self.batch.padded)
        self.logits, self.cache = self.session.step(rows, self.batch.ids, self.mask, None)
        self._check_states()
        self.reading.read_prompts(self.logits)

    def _decode(self, going: Bool[np.ndarray, " sequence"], sampled: Int[np.ndarray, " sequence"]) -> None:
        """Read what was sampled, once for each row and token; rows that no sequence is left on are dropped."""
        kept = np.flatnonzero(going)
        self.going, self.rule = self.going[kept], self.rule[kept]
        self.sampler.select(kept.tolist())
        n_rows = len(self.sample_ids)
        branches, self.row = np.unique(self.row[kept] * self.adapter.vocab_size + sampled[kept], return_inverse=True)
        parents, tokens = np.divmod(branches, self.adapter.vocab_size)
        if parents.tolist() != list(range(n_rows)):
            self._select_rows(parents)
        if self.batch.padded or self.session.bare is None:
            self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        self.n_read += 1
        rows = Rows(sample_ids=self.sample_ids, kept=1, readouts=self._readouts(), padded=self.batch.padded)
        self.logits, self.cache = self.session.step(rows, self._there(tokens).unsqueeze(-1), self.mask, self.cache)
        require_one_run(self.adapter, self._run.length, self.n_read)
        self._check_states()
        if self.program.logits == "all" or self.program.measures_logits:
            read, going_on, before = map(self._there, (sampled[kept], self.going, kept))
            self.reading.read_token(read, self.logits, going_on, before)

    def _select_rows(self, parents: Int[np.ndarray, " row"]) -> None:
        rows = self._there(parents)
        self.adapter.select_rows(self.cache, rows)
        self.mask = self.mask[rows]
        self.sample_ids = [self.sample_ids[row] for row in parents]
        run = self._run.selected(rows)
        run.cache = weakref.ref(identity_of(self.cache))
        keys = first_keys(self.cache)
        run.keys = None if keys is None else weakref.ref(keys)
        self.recorder.clear()
        self.recorder.keep(run)

    def _finish(self, ended: Bool[np.ndarray, " sequence"], sampled: Int[np.ndarray, " sequence"] | None) -> None:
        """Keep the samples of sequences that read nothing more."""
        if not ended.any():
            return
        sequences, rows = self.going[ended], self.row[ended]
        samples = self._run.selected(self._there(rows)).samples(
            self.stop_ids,
            None if sampled is None else torch.as_tensor(sampled[ended]),
            self.reading.tokenwise(self._there(sequences)),
            [self.sample_ids[row] for row in rows],
            self._there(self.rule[ended]),
        )
        for sample, sequence in zip(samples, sequences.tolist(), strict=True):
            sample.logits = self.reading.logits_of(sequence, len(sample))
            self.found[sequence] = sample

    def _check_states(self) -> None:
        for rule, state in zip(self.program.rules, self._run.rule_states, strict=True):
            if state:
                raise RuleKeepsStateError(f"{rule!r} keeps {sorted(map(str, state))} in its run_state.")
