"""Decode less prefill: of usage or of another number a token, raw and between tokens that are alike.

Matched on ``sample``, a token is paired within its own sample alone; else tokens are pooled over samples. See
:mod:`lacscope.trace_analyses` for what such a difference is and is not.
"""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from lacscope.guards._arguments import made_by, whole_number
from lacscope.trace_analyses._bootstrap import check_bootstrap, percentiles, times_drawn
from lacscope.trace_analyses._phases import CELL, CELL_KINDS, NO_SURPRISAL
from lacscope.traces._measure import Measure
from lacscope.traces._schema import PHASES

USAGE = "usage"
MATCHINGS: dict[str, tuple[str, ...]] = {
    "raw": (),
    "position": ("position_bin",),
    "class": ("token_class",),
    "surprisal": ("surprisal_bin",),
    "class + surprisal": ("token_class", "surprisal_bin"),
    "position + class + surprisal": CELL_KINDS,
    "sample + class + surprisal": ("sample", "token_class", "surprisal_bin"),
    "sample + position + class + surprisal": ("sample", *CELL_KINDS),
}
"""What tokens are matched on, by the name used in the tables."""

_BLOCK = 1024
_COLUMNS = ["of", "alpha", "matched_on", "difference", "low", "high", "coverage", "cells"]
_COLUMNS += ["n_prefill", "n_decode", "n_samples", "level", "note"]


def matched_difference(
    cells: pd.DataFrame,
    n_layers: int,
    *,
    seed: int,
    of: str = USAGE,
    n_bootstrap: int = 1000,
    level: float = 0.95,
) -> pd.DataFrame:
    """Usage in decode less usage in prefill: raw, and matched on position, token class, surprisal and sample.

    In each cell of the kinds matched on, the mean in decode less the mean in prefill is weighted with the smaller of
    the two numbers of tokens, as if each token were paired with one of the other phase. Where the sample is among the
    kinds, pairs are of one sample; else tokens are pooled over samples. Tokens without surprisal are never matched on
    it. The interval is a percentile bootstrap over samples, with the same resamples for every row.

    Args:
        cells: the table of :func:`~lacscope.trace_analyses.cell_counts`, of one model and task; each sample once.
        n_layers: layers of the model.
        seed: the seed of the bootstrap, >= 0.
        of: ``"usage"``, or one of the ``values`` that the cells were counted with, such as ``"kl"``: what an effect
            does to the token, in that value's own units.
        n_bootstrap: resamples.
        level: the level of the interval, in (0, 1).

    Returns:
        One row per alpha and matching. Columns: ``of``; ``alpha``; ``matched_on`` (a key of :data:`MATCHINGS`);
        ``difference``, of usage in [-1, 1], and its interval ``low`` .. ``high``; ``coverage``, the share of
        decode tokens with a partner of their own in prefill (under ``"raw"`` 1: nothing is asked of a partner);
        ``cells`` that both phases share; ``n_prefill``, ``n_decode`` (tokens in all); ``n_samples``; ``level``
        of the interval; and ``note``, words where a number is missing. Where nothing matches, NaN with coverage 0.

    Drawn by :func:`lacscope.plots.plot_phase_control`.

    Raises:
        ValueError: a column is missing, a cell is there twice, or an option is out of range.

    >>> from lacscope.trace_analyses._phases import cell_counts
    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace()
    >>> trace["surprisal"] = trace["delta_norm"].isel(layer=0, drop=True)
    >>> found = matched_difference(cell_counts(trace), 12, seed=0, n_bootstrap=20)
    >>> found["matched_on"].tolist() == list(MATCHINGS)
    True
    """
    _check(cells, n_layers, of, seed, n_bootstrap, level)
    column, scale = ("active", n_layers) if of == USAGE else (of, 1)
    rows = []
    for alpha, part in cells.assign(total=cells[column]).groupby("alpha", dropna=False, sort=True):
        for name, kinds in MATCHINGS.items():
            found = _row(_Counts.of(part, kinds, scale), seed, n_bootstrap, level)
            rows.append({"of": of, "alpha": alpha, "matched_on": name, "level": level} | found)
    found = pd.DataFrame(rows, columns=_COLUMNS)
    settings = {"of": of, "seed": seed, "n_bootstrap": n_bootstrap, "level": level}
    found.attrs = {**cells.attrs, "measure": "matched_difference", "settings": json.dumps(settings, sort_keys=True)}
    return found


_Means = tuple[Float[np.ndarray, "resample cell 2"], Float[np.ndarray, "resample cell 2"]]


@dataclass(frozen=True)
class _Counts:
    """Tokens and the sum of their values as flat entries: entry i is of ``sample[i]``, cell and phase ``slot[i]``.

    A token's value is its share of ``total``, divided by ``scale``: so sums of active layers stay whole numbers, which
    are exact in whatever order they are added. ``in_phase`` are the tokens of prefill and of decode, with and without
    a place in a cell; ``paired`` is False where nothing is matched on; ``within`` says that each cell is of one sample.
    """

    sample: Int[np.ndarray, " entry"]
    slot: Int[np.ndarray, " entry"]
    tokens: Int[np.ndarray, " entry"]
    total: Float[np.ndarray, " entry"]
    n_cells: int
    n_samples: int
    in_phase: tuple[int, int]
    paired: bool
    within: bool
    scale: int

    @classmethod
    def of(cls, cells: pd.DataFrame, kinds: tuple[str, ...], scale: int) -> "_Counts":
        # A sample whose tokens all lack a surprisal is a sample still.
        numbered = cells.assign(sample=pd.factorize(cells["sample"], sort=True)[0])
        usable = numbered[numbered["surprisal_bin"] != NO_SURPRISAL] if "surprisal_bin" in kinds else numbered
        cell = usable.groupby(list(kinds), sort=True).ngroup() if kinds else pd.Series(0, index=usable.index)
        slots = usable.assign(slot=2 * cell + (usable["phase"] == PHASES[1]))
        entries = slots.groupby(["sample", "slot"], sort=True)[["tokens", "total"]].sum().reset_index()
        in_phase = [int(cells.loc[cells["phase"] == phase, "tokens"].sum()) for phase in PHASES]
        return cls(
            sample=entries["sample"].to_numpy(dtype=np.int64),
            slot=entries["slot"].to_numpy(dtype=np.int64),
            tokens=entries["tokens"].to_numpy(dtype=np.int64),
            total=entries["total"].to_numpy(dtype=np.float64),
            n_cells=int(cell.max()) + 1 if len(cell) else 0,
            n_samples=int(numbered["sample"].nunique()),
            in_phase=(in_phase[0], in_phase[1]),
            paired=bool(kinds),
            within="sample" in kinds,
            scale=scale,
        )

    def all_samples(self) -> tuple[Float[np.ndarray, "cell 2"], Float[np.ndarray, "cell 2"]]:
        """Tokens and sums of values by cell and phase."""
        tokens, total = np.zeros((2, 2 * self.n_cells))
        np.add.at(tokens, self.slot, self.tokens)
        np.add.at(total, self.slot, self.total)
        return tokens.reshape(-1, 2), total.reshape(-1, 2)

    def differences(self, times: Float[np.ndarray, "resample sample"]) -> Float[np.ndarray, " resample"]:
        """The difference with each sample counted so many times; NaN without a cell that both phases have."""
        return self._within_samples(times) if self.within else _differences(*self._pooled(times), self.scale)

    def _within_samples(self, times: Float[np.ndarray, "resample sample"]) -> Float[np.ndarray, " resample"]:
        # A cell is of one sample: drawn k times, the sample has k times its pairs, and the same difference.
        pairs, difference = _by_cell(*self.all_samples(), self.scale)
        owner = np.zeros(self.n_cells, dtype=np.int64)
        owner[self.slot // 2] = self.sample
        above, below = (np.bincount(owner, of, self.n_samples) for of in (pairs * difference, pairs))
        return _ratio(times @ above, times @ below)

    def _pooled(self, times: Float[np.ndarray, "resample sample"]) -> _Means:
        """Tokens and sums of values by cell and phase, with each sample counted so many times."""
        tokens = np.zeros((len(times), 2 * self.n_cells))
        total = np.zeros_like(tokens)
        # In blocks: all samples times all cells would be gigabytes for the largest tasks.
        for start in range(0, self.n_samples, _BLOCK):
            block = (start <= self.sample) & (self.sample < start + _BLOCK)
            at = (self.sample[block] - start, self.slot[block])
            weight = times[:, start : start + _BLOCK]
            for summed, values in ((tokens, self.tokens), (total, self.total)):
                table = np.zeros((weight.shape[1], summed.shape[1]))
                table[at] = values[block]
                summed += weight @ table
        shape = (len(times), self.n_cells, 2)
        return tokens.reshape(shape), total.reshape(shape)


def _row(counts: _Counts, seed: int, n_bootstrap: int, level: float) -> dict[str, object]:
    tokens, total = counts.all_samples()
    pairs = tokens.min(axis=1)
    n_prefill, n_decode = counts.in_phase
    paired = float(pairs.sum()) if counts.paired else float(pairs.any() * n_decode)
    found: dict[str, object] = {
        "difference": float(_differences(tokens[None], total[None], counts.scale)[0]),
        "low": np.nan,
        "high": np.nan,
    }
    note = ""
    if not pairs.any():
        absent = [phase for phase, n in zip(PHASES, counts.in_phase, strict=True) if n == 0]
        note = f"no {absent[0]} tokens" if absent else "no cell has tokens of both phases"
    elif counts.n_samples < 2:
        note = "one sample: no interval"
    else:
        found["low"], found["high"], note = _interval(counts, seed, n_bootstrap, level)
    return found | {
        "coverage": paired / n_decode if n_decode else 0.0,
        "cells": int((pairs > 0).sum()),
        "n_prefill": n_prefill,
        "n_decode": n_decode,
        "n_samples": counts.n_samples,
        "note": note,
    }


def _interval(counts: _Counts, seed: int, n_bootstrap: int, level: float) -> tuple[float, float, str]:
    """Percentiles over resamples of the samples, and words where some resamples have no matching tokens."""
    times = times_drawn(np.random.default_rng(seed), n_bootstrap, counts.n_samples)
    found = counts.differences(times)
    kept = found[np.isfinite(found)]
    lost = n_bootstrap - len(kept)
    note = f"nothing matches in {lost} of {n_bootstrap} resamples" if lost else ""
    if not len(kept):
        return float("nan"), float("nan"), note
    low, high = percentiles(kept, level)
    return float(low), float(high), note


def _differences(
    tokens: Float[np.ndarray, "resample cell 2"], total: Float[np.ndarray, "resample cell 2"], scale: int
) -> Float[np.ndarray, " resample"]:
    """Mean over the cells that both phases have, weighted with the smaller number of tokens; NaN without such."""
    pairs, difference = _by_cell(tokens, total, scale)
    return _ratio((pairs * difference).sum(axis=-1), pairs.sum(axis=-1))


def _by_cell(
    tokens: Float[np.ndarray, "*resample cell 2"], total: Float[np.ndarray, "*resample cell 2"], scale: int
) -> tuple[Float[np.ndarray, "*resample cell"], Float[np.ndarray, "*resample cell"]]:
    """Pairs, and the mean in decode less that in prefill."""
    mean = total / (scale * np.maximum(tokens, 1))
    return tokens.min(axis=-1), mean[..., 1] - mean[..., 0]


def _ratio(
    above: Float[np.ndarray, " resample"], below: Float[np.ndarray, " resample"]
) -> Float[np.ndarray, " resample"]:
    return np.where(below > 0, above / np.maximum(below, 1), np.nan)


def _check(cells: pd.DataFrame, n_layers: int, of: str, seed: int, n_bootstrap: int, level: float) -> None:
    made_by("cells", cells, pd.DataFrame, "cell_counts(trace, voids)")
    whole_number("n_layers", n_layers, least=1)
    missing = [name for name in (*CELL, "tokens", "active") if name not in cells]
    if missing:
        raise ValueError(f"the table has no column {missing[0]!r}: make it with cell_counts(trace, voids).")
    values = [str(name) for name in cells if name not in (*CELL, "tokens", "active")]
    if of not in (USAGE, *values):
        raise ValueError(
            f"of={of!r}: the cells hold {', '.join([USAGE, *values])}. Others come in with "
            "cell_counts(trace, voids, values)."
        )
    twice = cells.duplicated(CELL)
    if twice.any():
        raise ValueError(
            f"a cell of sample {cells.loc[twice, 'sample'].iloc[0]} is there twice: a shard was added twice, or "
            "several models or tasks stand in one table. Compare the phases for each of them on its own."
        )
    if (cells["active"] > n_layers * cells["tokens"]).any():
        raise ValueError(f"n_layers is {n_layers}, and some tokens have more active layers than that.")
    check_bootstrap(seed, n_bootstrap, level)


MATCHED_DIFFERENCE = Measure(
    matched_difference,
    "decode against prefill",
    "usage in the answer less that in the prompt, between like tokens",
    plot="plot_phase_control",
    needs="results",
    group="tokens",
)
