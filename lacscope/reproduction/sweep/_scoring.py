"""Scores of one shard under every condition: each trace is reduced to rows as soon as it is made."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy.special import log_softmax

from lacscope.models._model import Model
from lacscope.reproduction.sweep._conditions import ROW_STRIDE, lac_rule, rule_of_condition
from lacscope.reproduction.sweep._reduce import early_exits, norm_rows, scored_positions, usage_columns
from lacscope.reproduction.sweep._spec import FULL, Condition, SweepSpec
from lacscope.tasks._base import Task
from lacscope.tasks._thoughts import thought_in
from lacscope.trace_analyses._phases import cell_counts
from lacscope.traces._voids import voids
from lacscope.tracing._questions import ReadQuestion, read_answers, single_token
from lacscope.tracing._run import trace

Keep = Callable[[str, xr.Dataset], None]
ByRow = TypeVar("ByRow", xr.Dataset, xr.DataArray)


@dataclass
class Shard:
    """One shard's questions, the model that answers them, and the tables that grow."""

    model: Model
    task: Task
    read: Sequence[ReadQuestion]
    spec: SweepSpec
    keep_trace: Keep | None = None
    scores: list[pd.DataFrame] = field(default_factory=list)
    norms: pd.DataFrame | None = None
    cells: pd.DataFrame | None = None

    def tables(self) -> dict[str, pd.DataFrame]:
        made = {"scores": pd.concat(self.scores, ignore_index=True)}
        if self.norms is not None:
            made["norms"] = self.norms
        if self.cells is not None:
            made["cells"] = self.cells
        return made


def score_shard(
    model: Model,
    task: Task,
    read: Sequence[ReadQuestion],
    spec: SweepSpec,
    *,
    keep_trace: Keep | None = None,
    tick: Callable[[Condition, pd.DataFrame], None] | None = None,
) -> dict[str, pd.DataFrame]:
    """The tables ``scores``, ``norms`` and (with generated answers) ``cells`` of one shard.

    ``observe`` conditions are read off the full model's pass, all ``readout`` ones share one prefill, and each
    ``bypass`` one costs a pass of its own.

    Args:
        keep_trace: a function that is called with a name and each trace before it is reduced.
        tick: a function that is called with each condition and its rows.
    """
    shard = Shard(model, task, read, spec, keep_trace)
    score = _ChoiceScoring(shard) if spec.scoring == "choice" else _GeneratedScoring(shard)
    for condition, made, void in _runs(shard, score):
        asked = [r.question for r in read]
        frame = pd.DataFrame({"sample": [q.sample for q in asked], "group": [q.group for q in asked]})
        frame["order"] = [list(q.order) for q in asked]
        for name, value in {"scoring": spec.scoring, **condition.label}.items():
            frame[name] = value
        for name, values in score.columns(condition, made, void).items():
            frame[name] = values
        shard.scores.append(frame)
        if tick is not None:
            tick(condition, frame)
    return shard.tables()


def _runs(
    shard: Shard, score: "_ChoiceScoring | _GeneratedScoring"
) -> Iterator[tuple[Condition, xr.Dataset, xr.DataArray]]:
    """Every condition of the specification with its trace and its voids, the full model first."""
    conditions = shard.spec.conditions
    full = score.read(FULL)
    _keep(shard, FULL, full)
    answered = score.by_question(full)
    shard.norms = norm_rows(answered)
    yield FULL, full, voids(full, 0.0) & False
    if shard.spec.phase_alphas:
        shard.cells = cell_counts(answered, voids(answered, shard.spec.phase_alphas))
    for condition in conditions:
        if condition.effect == "observe":
            assert condition.alpha is not None
            yield condition, full, voids(full, condition.alpha)
    readouts = [condition for condition in conditions if condition.effect == "readout"]
    if readouts:
        together = score.read(readouts[0], [rule_of_condition(c, full) for c in readouts])
        for index, condition in enumerate(readouts):
            made = together.isel(rule=index).drop_vars("rule")
            _keep(shard, condition, made)
            yield condition, made, made["void"]
    matched: dict[float | None, xr.Dataset] = {}
    for condition in conditions:
        if condition.effect == "bypass":
            if condition.alpha not in matched:
                matched = {condition.alpha: score.read(condition, lac_rule(condition))}
            own = matched[condition.alpha]
            made = own if condition.rule == "lac" else score.read(condition, rule_of_condition(condition, own))
            _keep(shard, condition, made)
            yield condition, made, made["void"]


def _keep(shard: Shard, condition: Condition, made: xr.Dataset) -> None:
    if shard.keep_trace is not None:
        alpha = "" if condition.alpha is None else f"-{condition.alpha:g}"
        seed = "" if condition.seed < 0 else f"-seed{condition.seed}"
        protect = "-protected" if condition.protect else ""
        shard.keep_trace(f"{condition.effect}-{condition.rule}{alpha}{seed}{protect}", made)


class _ChoiceScoring:
    """Log-probability of each choice after the prompt.

    Where every choice is one token, one pass over the prompt scores them all. Else each choice is a row of its
    own, prompt and choice read together; usage is then that of the row with the right choice.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.single = single_token(shard.read)
        self.rows = [(i, c) for i, r in enumerate(shard.read) for c in range(1 if self.single else len(r.choices))]
        self.first = [self.rows.index((i, 0)) for i in range(len(shard.read))]
        ahead = [0 if self.single else max(0, r.question.target) for r in shard.read]
        self.right = [row + more for row, more in zip(self.first, ahead, strict=True)]
        self.full_logits: Float[np.ndarray, "question vocab"] | None = None
        self.full_picked: np.ndarray | None = None

    def read(self, condition: Condition, rule: Any = None) -> xr.Dataset:
        read, spec = self.shard.read, self.shard.spec
        given = None if self.single else [list(read[i].choices[c]) for i, c in self.rows]
        return trace(
            self.shard.model,
            [list(read[i].prompt) for i, _ in self.rows],
            responses=given,
            rule=rule,
            effect="observe" if condition.effect == "none" else condition.effect,
            batch_size=spec.batch_size,
            logits="last",
            measures=() if self.single else ("surprisal", "rank"),
            tokenwise="response",
            sample_ids=[read[i].question.sample * ROW_STRIDE + c for i, c in self.rows],
        )

    def by_question(self, made: ByRow) -> ByRow:
        """One row per question, named by its sample."""
        return made.isel(sample=self.right).assign_coords(sample=[r.question.sample for r in self.shard.read])

    def columns(self, condition: Condition, made: xr.Dataset, void: xr.DataArray) -> dict[str, Any]:
        read = self.shard.read
        targets = [r.question.target for r in read]
        log_probs = log_softmax(made["logits"].values[self.first].astype(np.float64), axis=-1)
        choice_logp, greedy = self._choices(made, log_probs)
        picked = np.array([int(np.argmax(logp)) if len(logp) > 1 else -1 for logp in choice_logp])
        correct = np.where(picked >= 0, picked == np.array(targets), greedy)
        if condition == FULL:
            self.full_logits, self.full_picked = log_probs, np.where(picked >= 0, picked, greedy)
        assert self.full_logits is not None
        assert self.full_picked is not None
        of_right, void_of_right = self.by_question(made), self.by_question(void)
        scored, early = self._scored(made, void)
        target_logp = [logp[max(0, t)] for logp, t in zip(choice_logp, targets, strict=True)]
        return {
            "target": targets,
            "picked": picked,
            "correct": correct.astype(bool),
            "unparseable": False,
            "choice_logp": choice_logp,
            "target_logp": target_logp,
            "margin": [_margin(logp, t) for logp, t in zip(choice_logp, targets, strict=True)],
            "target_tokens": [len(r.choices[max(0, t)]) for r, t in zip(read, targets, strict=True)],
            "kl_to_full": (np.exp(self.full_logits) * (self.full_logits - log_probs)).sum(-1),
            "agrees": np.where(picked >= 0, picked, greedy) == self.full_picked,
            "scored": scored,
            "early": early,
            "n_tokens": 0,
            "thought": "",
            "text": "",
            **usage_columns(of_right, void_of_right, condition.effect),
        }

    def _scored(self, made: xr.Dataset, void: xr.DataArray) -> tuple[list[int], list[int]]:
        """Positions scored for each question over all its choices, and how many of them exit early.

        The prompt's last position serves every choice and counts once.
        """
        positions = scored_positions(made)
        for row, (_, choice) in enumerate(self.rows):
            if choice > 0:
                positions[row, positions[row].argmax()] = False
        per_row = positions.sum(-1), early_exits(void, positions)
        questions = [question for question, _ in self.rows]
        scored, early = (np.bincount(questions, weights=counts).astype(int).tolist() for counts in per_row)
        return scored, early

    def _choices(
        self, made: xr.Dataset, log_probs: Float[np.ndarray, "question vocab"]
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Log-probability of each question's choices, and whether every token of the right one was the likeliest."""
        read = self.shard.read
        if self.single:
            found = [log_probs[i, [ids[0] for ids in r.choices]] for i, r in enumerate(read)]
            return found, np.zeros(len(read), dtype=bool)
        answer = made["valid"].values & (made["phase"].values == "decode")
        summed = -np.where(answer, made["surprisal"].values, 0.0).astype(np.float64).sum(-1)
        by_question: list[list[float]] = [[] for _ in read]
        for (i, _), logp in zip(self.rows, summed, strict=True):
            by_question[i].append(float(logp))
        greedy = (np.where(answer, made["rank"].values, 0.0) == 0).all(-1)[self.right]
        return [np.array(logps) for logps in by_question], greedy


def _margin(logp: np.ndarray, target: int) -> float:
    """Log-probability of the right choice less that of the best other one, in nats."""
    return float(logp[target] - np.delete(logp, target).max()) if len(logp) > 1 else float("nan")


class _GeneratedScoring:
    """The answer that the model writes, parsed; one that cannot be parsed is wrong and counted apart."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.full_parsed: list[Any] | None = None
        self.full_logits: Float[np.ndarray, "question vocab"] | None = None

    def read(self, condition: Condition, rule: Any = None) -> xr.Dataset:
        spec = self.shard.spec
        phases = condition == FULL and bool(spec.phase_alphas)
        return trace(
            self.shard.model,
            [list(r.prompt) for r in self.shard.read],
            rule=rule,
            effect="observe" if condition.effect == "none" else condition.effect,
            batch_size=spec.batch_size,
            logits="last",
            max_new_tokens=spec.max_new_tokens,
            temperature=spec.temperature,
            top_p=spec.top_p,
            seed=spec.seed,
            measures=("surprisal",) if phases else (),
            sample_ids=[r.question.sample for r in self.shard.read],
        )

    def by_question(self, made: ByRow) -> ByRow:
        """The trace as it is: each question is one row."""
        return made

    def columns(self, condition: Condition, made: xr.Dataset, void: xr.DataArray) -> dict[str, Any]:
        task, read = self.shard.task, self.shard.read
        log_probs = log_softmax(made["logits"].values.astype(np.float64), axis=-1)
        produced = [[int(t) for t in row if t >= 0] for row in made["next_token_id"].values]
        answers = read_answers(self.shard.model.tokenizer, read, produced)
        parsed = [task.parse(answer.whole, r.question) for answer, r in zip(answers, read, strict=True)]
        if condition == FULL:
            self.full_parsed, self.full_logits = parsed, log_probs
        assert self.full_parsed is not None
        assert self.full_logits is not None
        scored = scored_positions(made)
        return {
            "target": [r.question.target for r in read],
            "picked": [answer if isinstance(answer, int) else -1 for answer in parsed],
            "correct": [a is not None and task.right(a, r.question) for a, r in zip(parsed, read, strict=True)],
            "unparseable": [answer is None for answer in parsed],
            "choice_logp": [np.array([])] * len(read),
            "target_logp": np.nan,
            "margin": np.nan,
            "target_tokens": 0,
            "kl_to_full": (np.exp(self.full_logits) * (self.full_logits - log_probs)).sum(-1),
            "agrees": [a == full for a, full in zip(parsed, self.full_parsed, strict=True)],
            "scored": scored.sum(-1),
            "early": early_exits(void, scored),
            "n_tokens": [len(ids) for ids in produced],
            "thought": [thought_in(answer.whole) for answer in answers],
            "text": [answer.text for answer in answers] if self.shard.spec.keep_text and not task.private else "",
            **usage_columns(made, void, condition.effect),
        }
