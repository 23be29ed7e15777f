"""The search for the sublayers that SWIFT leaves out: passes of the model, with nobody's hooks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lacscope.guards._arguments import real_number, whole_number, whole_numbers
from lacscope.model_measures._swift_search import search_set
from lacscope.models._model import Model
from lacscope.models.adapters import Adapter, adapt, registered, without_gradients
from lacscope.models.adapters._stream import require_sublayers
from lacscope.rules import SWIFT


def fit_swift(
    rule: SWIFT,
    model: Model,
    data: Sequence[Sequence[int]] | Sequence[str],
    *,
    trials: int,
    patience: int,
    bayes_every: int,
    target: float,
    context: int,
    seed: int,
) -> SWIFT:
    """What :meth:`lacscope.SWIFT.fit` does."""
    whole_number("trials", trials)
    whole_number("patience", patience)
    whole_number("bayes_every", bayes_every, least=1)
    real_number("target", target)
    whole_number("context", context, least=1)
    whole_number("seed", seed)
    adapter = adapt(model)
    require_sublayers(adapter)
    layers = np.array([k for k in rule.scope.open_layers(adapter.n_layers) if 0 < k < adapter.n_layers - 1])
    points = [adapter.hook_point(f"blocks.{k}.hook_{kind}_out") for kind in ("attn", "mlp") for k in layers]
    n_skip = int(len(points) * rule.skip_ratio)
    if trials < 1 or n_skip < 1:
        raise ValueError(
            f"nothing to search: trials={trials}, and skip_ratio={rule.skip_ratio} of {len(points)} sublayers "
            f"({adapter.n_layers} layers less the first, the last and those protected) is {n_skip}."
        )
    rows = [ids[:context] for ids in _token_ids(adapter, data)]
    with adapter.quiet(), without_gradients():
        full = _choices(adapter, rows)

        def share_that_stays(chosen: Bool[np.ndarray, " sublayer"]) -> float:
            with registered([(points[i], _zero) for i in np.flatnonzero(chosen)]):
                return int((_choices(adapter, rows) == full).sum()) / len(full)

        found = search_set(
            share_that_stays,
            len(points),
            n_skip,
            trials=trials,
            patience=patience,
            bayes_every=bayes_every,
            target=target,
            seed=seed,
        )
    attn, mlp = (tuple(layers[half].tolist()) for half in np.split(found.chosen, 2))
    return replace(rule, attn=attn, mlp=mlp, score=found.score)


def _token_ids(adapter: Adapter, data: Any) -> list[list[int]]:
    if isinstance(data, str) or not isinstance(data, Sequence) or len(data) == 0:
        raise ValueError(f"data must be a list of contexts, texts or lists of token ids; got {data!r:.80}.")
    texts = [_read_text(adapter, row) if isinstance(row, str) else row for row in data]
    rows = [whole_numbers(f"context {place}", row) for place, row in enumerate(texts)]
    if not all(rows):
        raise ValueError(f"context {[bool(row) for row in rows].index(False)} has no tokens.")
    return rows


def _read_text(adapter: Adapter, text: str) -> list[int]:
    return adapter.model.to_tokens(text, truncate=False, move_to_device=False)[0].tolist()


def _choices(adapter: Adapter, rows: list[list[int]]) -> Int[Tensor, " token"]:
    """The most likely next token after each token of each context."""
    found = []
    for row in rows:
        ids = torch.tensor([row], device=adapter.device)
        logits, _ = adapter.step(ids, torch.ones_like(ids).bool(), None, use_cache=False, keep=None)
        found.append(logits[0].argmax(-1))
    return torch.cat(found)


def _zero(activation: Tensor, hook: Any) -> Tensor:
    return torch.zeros_like(activation)
