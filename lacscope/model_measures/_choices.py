"""Log-probability of answers under whatever is done to the model: a plan, a user's hooks, or nothing.

The sweep scores by ``trace``, which records every layer of every token. This asks for logits alone, so it works
where no halting rule can: with blocks in another order, repeated or averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lacscope.guards._arguments import whole_number
from lacscope.models._checks import check_blocks, rows_at_once
from lacscope.models._facts import model_attrs
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter, without_gradients
from lacscope.tasks._base import Question
from lacscope.traces._provenance import Progress, result_attrs
from lacscope.tracing._batches import Batch, Batches
from lacscope.tracing._inputs import check_lengths
from lacscope.tracing._questions import ReadQuestion, read_questions


@dataclass(frozen=True)
class ChoiceRows:
    """Every choice of every question as a row of its own, read after the prompt."""

    questions: Sequence[Question]
    read: list[ReadQuestion]
    places: list[tuple[int, int]]

    @property
    def tokens(self) -> list[list[int]]:
        """Prompt and choice of each row."""
        return [[*self.read[i].prompt, *self.read[i].choices[c]] for i, c in self.places]

    @property
    def prompt_lengths(self) -> list[int]:
        return [len(self.read[i].prompt) for i, _ in self.places]

    def table(self, logp: np.ndarray, likeliest: np.ndarray) -> pd.DataFrame:
        """What :func:`score_choices` returns, of each row's summed log-probability and number of likeliest tokens."""
        found = pd.DataFrame([_score(one, i, self.places, logp, likeliest) for i, one in enumerate(self.read)])
        found = found.sort_values("sample", ignore_index=True)
        return found.assign(sample=[one.sample for one in self.questions])


def choice_rows(adapter: Adapter, questions: Sequence[Question]) -> ChoiceRows:
    """The rows of these questions.

    Raises:
        ValueError: a question without choices.
        InputError: a prompt that does not fit the context with its answer.
    """
    bare = [one.sample for one in questions if not one.choices]
    if bare:
        raise ValueError(f"sample {bare[0]} has no choices to score; generate its answer instead.")
    # Numbered by place: the same sample may be asked twice, and reading sorts by length.
    read = read_questions(adapter, [replace(one, sample=place) for place, one in enumerate(questions)])
    rows = ChoiceRows(questions, read, [(i, c) for i, one in enumerate(read) for c in range(len(one.choices))])
    check_lengths(adapter, rows.tokens, 0)
    return rows


def score_choices(
    model: Model, questions: Sequence[Question], *, batch_size: int = 8, progress: Progress | None = None
) -> pd.DataFrame:
    """How likely the model finds each question's choices, read after the prompt.

    Args:
        model: a ``TransformerBridge`` or ``HookedTransformer``, with whatever hooks or plan it stands under.
        questions: questions with at least one choice each; a single choice is the right answer itself.
        batch_size: rows (prompt and one choice) of a forward pass.
        progress: a function that is called with (rows done, rows).

    Returns:
        A row per question, in the order given: ``sample``, ``group``, ``target``, ``picked`` (-1 where there is one
        choice), ``correct`` (one choice: every token of it was the likeliest), ``target_logp`` (nats, summed over
        its ``target_tokens``), ``token_accuracy`` (share of the right choice's tokens that were the likeliest).

    Raises:
        ValueError: a question without choices.
        InputError: a prompt that does not fit the context with its answer.

    >>> with lacscope.plan(model, Plan.reverse(30, range(11, 20))):  # doctest: +SKIP
    ...     score_choices(model, questions)["correct"].mean()
    """
    whole_number("batch_size", batch_size, least=1)
    adapter = check_blocks(model)
    rows = choice_rows(adapter, questions)
    n_rows = len(rows.places)
    pad_id = getattr(adapter.tokenizer, "pad_token_id", None) or 0
    size = rows_at_once(adapter, batch_size)
    batches = Batches(rows.tokens, rows.prompt_lengths, list(range(n_rows)), size, pad_id, adapter.device)
    logp = np.zeros(n_rows)
    likeliest = np.zeros(n_rows, dtype=int)
    done = 0
    for batch in batches:
        with without_gradients(), adapter.evaluating():
            longest = int(batch.answer_lengths.max())
            logits, _ = adapter.step(batch.ids, batch.mask, None, use_cache=False, keep=longest + 1)
        logp[batch.members], likeliest[batch.members] = _answers(batch, logits)
        done += len(batch.members)
        if progress is not None:
            progress(done, n_rows)
    table = rows.table(logp, likeliest)
    table.attrs = result_attrs(
        "score_choices",
        model_attrs(adapter),
        preset=None,
        settings={},
        positions="the choices, read after the prompt",
        aggregation="one row a question",
        n_samples=len(questions),
    )
    return table


def _answers(batch: Batch, logits: Float[Tensor, "row read vocab"]) -> tuple[np.ndarray, np.ndarray]:
    """For each row, the summed log-probability of its answer's tokens, and how many of them were the likeliest."""
    longest = logits.shape[1] - 1
    before = logits[:, :-1].float()
    tokens = batch.ids[:, -longest:]
    chosen = torch.log_softmax(before, dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    place = torch.arange(longest, device=tokens.device)
    answer = place >= longest - batch.answer_lengths.unsqueeze(-1)
    # float64 on the CPU: Apple's GPUs have none.
    summed = torch.where(answer, chosen, 0.0).cpu().double().sum(-1)
    top = (before.argmax(-1) == tokens) & answer
    return summed.numpy(), top.sum(-1).cpu().numpy()


def _score(
    one: ReadQuestion, index: int, rows: list[tuple[int, int]], logp: np.ndarray, likeliest: np.ndarray
) -> dict[str, Any]:
    first = rows.index((index, 0))
    n = len(one.choices)
    target = one.question.target
    tokens = len(one.choices[target])
    top = int(likeliest[first + target])
    picked = int(np.argmax(logp[first : first + n])) if n > 1 else -1
    return {
        "sample": one.question.sample,
        "group": one.question.group,
        "target": target,
        "picked": picked,
        "correct": picked == target if n > 1 else top == tokens,
        "target_logp": float(logp[first + target]),
        "target_tokens": tokens,
        "token_accuracy": top / tokens,
    }
