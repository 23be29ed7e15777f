"""Prompts with a given answer behind them: their ids, and the labels of a map over their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from lacscope.models.adapters import Adapter
from lacscope.tracing._inputs import read_inputs, read_responses
from lacscope.tracing._token_text import special_ids, token_texts


@dataclass(frozen=True)
class Answered:
    """One prompt's ids with its answer's at the end."""

    ids: list[int]
    n_answer: int

    @property
    def answer(self) -> Int[Tensor, " answer"]:
        """The answer's token ids."""
        return torch.tensor(self.ids[-self.n_answer :])


def read_answered(adapter: Adapter, inputs: Any, responses: Any) -> list[Answered]:
    """Each prompt with its answer; InputError where they cannot be read or their numbers differ."""
    prompts = read_inputs(adapter, inputs)
    answers = read_responses(adapter, responses, len(prompts))
    return [Answered([*prompt, *answer], len(answer)) for prompt, answer in zip(prompts, answers, strict=True)]


def answer_logits(logits: Float[Tensor, "variant read vocab"], n_answer: int) -> Float[Tensor, "variant answer vocab"]:
    """Logits that the answer's tokens were predicted from, of logits whose last position read its last token."""
    return logits[:, -(n_answer + 1) : -1]


def map_over_tokens(
    adapter: Adapter, samples: Sequence[Answered], name: str, maps: Sequence[Float[np.ndarray, "state _"]]
) -> xr.Dataset:
    """One variable (sample, state, token), NaN after a sample's end, with what its tokens are as coordinates."""
    lengths = [len(sample.ids) for sample in samples]
    values = np.full((len(samples), len(maps[0]), max(lengths)), np.nan, dtype=np.float32)
    token_id = np.full((len(samples), max(lengths)), -1)
    answer = np.zeros(token_id.shape, dtype=bool)
    for index, (sample, found) in enumerate(zip(samples, maps, strict=True)):
        end = len(sample.ids)
        values[index, :, :end] = found
        token_id[index, :end] = sample.ids
        answer[index, end - sample.n_answer : end] = True
    known = {int(i) for i in np.unique(token_id)} - {-1}
    special = special_ids(adapter.tokenizer, known)
    # netCDF strings end at a NUL: it is shown as its symbol.
    texts = {i: text.replace("\0", "\u2400") for i, text in token_texts(adapter.tokenizer, known).items()}
    by_token = ("sample", "token")
    return xr.Dataset(
        {name: (("sample", "state", "token"), values)},
        {
            "sample": np.arange(len(samples)),
            "state": np.arange(values.shape[1]),
            "token": np.arange(values.shape[2]),
            "token_id": (by_token, token_id),
            "token_text": (
                by_token,
                np.array([[texts.get(int(i), "") for i in row] for row in token_id], dtype=object),
            ),
            "valid": (by_token, token_id >= 0),
            "special": (by_token, np.isin(token_id, sorted(special))),
            "answer": (by_token, answer),
        },
    )
