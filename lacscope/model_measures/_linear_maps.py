"""Linear maps from the layers of one model to those of another: does the deeper one compute anything new?"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lacscope.guards._arguments import ANY, is_real, whole_number, whole_numbers
from lacscope.model_measures._residuals import read_residuals
from lacscope.models._checks import check_blocks
from lacscope.models._facts import model_attrs
from lacscope.models.adapters import Adapter, without_gradients
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import Preset, Progress, result_attrs
from lacscope.tracing._inputs import InputError, read_inputs

Within = Callable[[], AbstractContextManager[Any]]
MappedStream = Float[Tensor, "state pos d_model"]
Map = Float[Tensor, "d_a states_of_b"]
CSORDAS_LINEAR_MAPS = Preset(
    "csordas_2025/linear_maps",
    "Csordás, Manning and Potts 2025, arXiv 2505.13898, maps between models",
    {"tokens_per_dim": 10},
    read_in="paper",
)
HELD_OUT = 0.2  # of the prompts
_SMALLEST_NORM = 1e-6


class TokenizerMismatchError(ValueError):
    """Two models that do not read the same tokens."""


@without_gradients()
def linear_maps(
    model_a: Any,
    model_b: Any,
    inputs: Any,
    *,
    ridge: float = 1e-4,
    tokens_per_dim: int = 10,
    held_out: float = HELD_OUT,
    states: Sequence[int] | None = None,
    states_at_once: int = 4,
    within_a: Within = nullcontext,
    within_b: Within = nullcontext,
    names: tuple[str, str] | None = None,
    data: str = "",
    progress: Progress | None = None,
) -> xr.Dataset:
    """How well each state of model B is a linear map of each state of model A.

    W (no intercept) minimises sum_t ||x_t W - y_t||^2 + lambda ||W||^2 over the tokens of the fitted prompts but
    position 0, lambda = ``ridge`` times the mean of the diagonal of X^T X. Sums X^T X and X^T Y are kept, never the
    streams of more than one prompt: memory is ``states_at_once`` x (L_B + 1) x d_A x d_B doubles, and all prompts are
    read once more for every ``states_at_once`` states of A.

    Args:
        model_a: the model mapped from.
        model_b: the model mapped to; the same tokenizer. May be ``model_a`` itself.
        inputs: prompts, as :func:`lacscope.trace` takes them; both models must read the same ids.
        ridge: the penalty, as a share; above 0.
        tokens_per_dim: tokens to fit on, at least, for each of A's dimensions.
        held_out: share of the prompts, at the end, that the errors are measured on.
        states: the states of A that are mapped from; None: all. Each has the same map whether or not the others are
            asked for.
        states_at_once: states of A fitted in one reading.
        within_a: a function that makes the context about each pass of A: a plan or hooks.
        within_b: the same for B, so that a model can be compared with itself altered:
            ``within_b=lambda: model.hooks(fwd_hooks=...)``.
        names: the names of A and B on the figure; default: the models' own.
        data: the name of the prompts, for the figure.
        progress: a function that is called with (prompts read, prompts to read), over all readings.

    Returns:
        Dataset over (sample, state_a, state_b), the samples being the held-out prompts: ``error``, mean over tokens
        but position 0 of ||x W - y|| / ||y||, and ``error_position_0``, that of the same map at position 0, which
        it was not fitted to. 0 is an exact map, 1 no better than the zero map. State l enters layer l.

    Drawn by :func:`lacscope.plots.plot_linear_maps`.

    Raises:
        TokenizerMismatchError: different tokenizers, or ids; the message names both models.
        InputError: prompts that cannot be read, or have one token.
        ValueError: too few tokens, and settings out of range.

    Source: Csordás, Manning and Potts 2025 (arXiv 2505.13898), maps between models.

    >>> found = linear_maps(small, large, prompts)  # doctest: +SKIP
    >>> found.error.mean("sample")  # (state_a, state_b)  # doctest: +SKIP
    """
    pair = _Pair(check_blocks(model_a), check_blocks(model_b), within_a, within_b)
    _check_settings(ridge, held_out, states_at_once)
    rows = _same_rows(pair.a, pair.b, inputs)
    n_held = _n_held(len(rows), held_out)
    fitted, held = rows[:-n_held], rows[-n_held:]
    n_fitted = n_tokens_to_fit(rows, held_out)
    d_a = int(pair.a.model.cfg.d_model)
    if not fitted or n_fitted < tokens_per_dim * d_a:
        raise ValueError(
            f"{n_fitted} tokens to fit on (position 0 apart, {n_held} of {len(rows)} prompts held out); "
            f"{tokens_per_dim} for each of the {d_a} dimensions of {pair.a.name} are {tokens_per_dim * d_a}. "
            "Give more prompts, or a smaller tokens_per_dim."
        )
    mapped_from = _states(pair.a, states)
    groups = list(torch.tensor(mapped_from).split(states_at_once))
    tick = _counter(progress, len(groups) * len(rows))
    found = []
    for group in groups:
        maps = _fit(pair, fitted, group.tolist(), ridge, tick)
        found.append(_held_out_errors(pair, held, group.tolist(), maps, tick))
    ds = _dataset(torch.cat(found, dim=2).numpy(), mapped_from, names or (pair.a.name, pair.b.name))
    ds.attrs = result_attrs(
        "linear_maps",
        model_attrs(pair.a),
        preset=CSORDAS_LINEAR_MAPS,
        settings={"ridge": ridge, "tokens_per_dim": tokens_per_dim, "held_out": held_out},
        positions=f"all but position 0 (fitted on {n_fitted} tokens)",
        aggregation="mean over tokens, per held-out prompt",
        n_samples=len(rows),
        data=data,
    )
    return ds.assign_attrs(model_b=pair.b.name, n_fitted_tokens=n_fitted, n_held_out=n_held)


def n_tokens_to_fit(rows: Sequence[Sequence[int]], held_out: float = HELD_OUT) -> int:
    """Tokens that :func:`linear_maps` fits on: those of the prompts that are not held out, position 0 apart.

    >>> n_tokens_to_fit([[1] * 10, [1] * 10, [1] * 99])
    18
    """
    n_held = _n_held(len(rows), held_out)
    return sum(len(ids) - 1 for ids in rows[:-n_held])


def _n_held(n_rows: int, held_out: float) -> int:
    return max(1, round(held_out * n_rows))


@dataclass(frozen=True)
class _Pair:
    """Two models, and the contexts about their passes."""

    a: Adapter
    b: Adapter
    within_a: Within
    within_b: Within

    def read(self, rows: list[list[int]]) -> Iterator[tuple[MappedStream, MappedStream]]:
        """The streams of A and B, one prompt after the other."""
        same = self.a.model is self.b.model and self.within_a is self.within_b
        for ids in rows:
            a = _stream(self.a, self.within_a, ids)
            yield a, (a if same else _stream(self.b, self.within_b, ids))


def _stream(adapter: Adapter, within: Within, ids: list[int]) -> MappedStream:
    with within():
        (read,) = read_residuals(adapter.model, [ids])
    # On the CPU in double: X^T X squares the condition number.
    return read.stream.cpu().double()


def _fit(pair: _Pair, rows: list[list[int]], group: list[int], ridge: float, tick: Callable[[], None]) -> list[Map]:
    """The map from each of these states of A to all of B's side by side."""
    d_a, d_b = (int(adapter.model.cfg.d_model) for adapter in (pair.a, pair.b))
    squares = torch.zeros(len(group), d_a, d_a, dtype=torch.float64)
    products = torch.zeros(len(group), d_a, (pair.b.n_layers + 1) * d_b, dtype=torch.float64)
    for a, b in pair.read(rows):
        y = rearrange(b[:, 1:], "state pos d -> pos (state d)")
        for index, state in enumerate(group):
            x = a[state, 1:]
            squares[index].addmm_(x.T, x)
            products[index].addmm_(x.T, y)
        tick()
    maps = []
    for state, square, product in zip(group, squares, products, strict=True):
        penalty = ridge * square.diagonal().mean()
        factor, failed = torch.linalg.cholesky_ex(square + penalty * torch.eye(d_a, dtype=torch.float64))
        if failed:
            raise ValueError(
                f"no map can be fitted from state {state} of {pair.a.name} with ridge={ridge:g}: "
                "its stream is zero or not finite, or the ridge is too small."
            )
        maps.append(torch.cholesky_solve(product, factor))
    return maps


def _held_out_errors(
    pair: _Pair, rows: list[list[int]], group: list[int], maps: list[Map], tick: Callable[[], None]
) -> Float[Tensor, "part sample state_a state_b"]:
    """Mean relative errors at positions from 1 on, and those at position 0."""
    found = []
    for a, b in pair.read(rows):
        relative = []
        for state, weights in zip(group, maps, strict=True):
            mapped = rearrange(a[state] @ weights, "pos (state d) -> state pos d", state=len(b))
            relative.append((mapped - b).norm(dim=-1) / b.norm(dim=-1).clamp(min=_SMALLEST_NORM))
        errors = torch.stack(relative)
        found.append(torch.stack([errors[:, :, 1:].mean(-1), errors[:, :, 0]]))
        tick()
    return torch.stack(found, dim=1)


def _dataset(
    errors: Float[np.ndarray, "part sample state_a state_b"], states: list[int], names: tuple[str, str]
) -> xr.Dataset:
    dims = ("sample", "state_a", "state_b")
    words = {"error": "held-out ||xW - y|| / ||y||", "error_position_0": "||xW - y|| / ||y|| at position 0"}
    ds = xr.Dataset(
        {
            name: (dims, part, {"long_name": words[name], "units": "1"})
            for name, part in zip(words, errors, strict=True)
        },
        {"sample": np.arange(errors.shape[1]), "state_a": states, "state_b": np.arange(errors.shape[3])},
    )
    for dim, name in zip(dims[1:], names, strict=True):
        ds[dim].attrs["long_name"] = f"state of {name}"
    return ds


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    steps = itertools.count(1)
    return lambda: None if progress is None else progress(next(steps), total)


def _check_settings(ridge: float, held_out: float, states_at_once: int) -> None:
    if not is_real(ridge) or not ridge > 0:
        raise ValueError(f"ridge must be above 0, got {ridge}: without it a stream of few tokens has no one map.")
    if not is_real(held_out) or not 0 < held_out < 1:
        raise ValueError(f"held_out must be a share of the prompts above 0 and below 1, got {held_out}.")
    whole_number("states_at_once", states_at_once, least=1)


def _states(adapter: Adapter, states: Sequence[int] | None) -> list[int]:
    """The states of A that are mapped from, in rising order."""
    found = (
        list(range(adapter.n_layers + 1)) if states is None else sorted(set(whole_numbers("states", states, least=ANY)))
    )
    if not found or found[0] < 0 or found[-1] > adapter.n_layers:
        raise ValueError(f"states={states}: {adapter.name} has states 0 to {adapter.n_layers}; give one at least.")
    return found


def _same_rows(a: Adapter, b: Adapter, inputs: Any) -> list[list[int]]:
    """The prompts' ids, which both models must read alike."""
    rows = read_inputs(a, inputs)
    if a.model is not b.model:
        vocabularies = [None if m.tokenizer is None else m.tokenizer.get_vocab() for m in (a, b)]
        sizes = [m.vocab_size if v is None else len(v) for m, v in zip((a, b), vocabularies, strict=True)]
        if vocabularies[0] != vocabularies[1] or (vocabularies[0] is None and sizes[0] != sizes[1]):
            said = [f"{m.name} ({size} tokens)" for m, size in zip((a, b), sizes, strict=True)]
            raise TokenizerMismatchError(
                f"{said[0]} and {said[1]} have different tokenizers. Maps pair the streams of the same token: "
                "give two models with one tokenizer."
            )
        if read_inputs(b, inputs) != rows:
            raise TokenizerMismatchError(
                f"{a.name} and {b.name} read different tokens of the same inputs (a BOS, a chat template): "
                "give token ids."
            )
    short = [index for index, ids in enumerate(rows) if len(ids) < 2]
    if short:
        raise InputError(f"prompt {short[0]} has one token; position 0 stands apart, so a map needs two or more.")
    return rows


LINEAR_MAPS = Measure(
    linear_maps,
    "linear maps",
    "how well each state is a linear map of each other",
    plot="plot_linear_maps",
    papers=(CSORDAS_LINEAR_MAPS,),
    group="depth",
    command="maps",
)
