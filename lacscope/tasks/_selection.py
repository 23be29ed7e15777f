"""Which rows a limited run reads: a seeded sample, the same for every model and condition."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def choose(rows: Sequence[Mapping[str, Any]], limit: int | None, seed: int, group: str | None = None) -> list[int]:
    """Row numbers of a seeded sample, ascending; all of them where ``limit`` is None or not below the number of rows.

    A smaller sample is part of a larger one of the same seed. With ``group`` (a field of the rows) each group
    has its share: seats are given by the method of Webster and Sainte-Laguë, which, unlike largest remainders,
    never takes a row back when the limit grows.

    Raises:
        ValueError: a limit below 1.

    >>> choose([{}] * 5, None, seed=0)
    [0, 1, 2, 3, 4]
    >>> rows = [{"subject": "long"}] * 90 + [{"subject": "short"}] * 10
    >>> sum(number < 90 for number in choose(rows, 20, seed=0, group="subject"))
    18
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; give at least 1, or None for all rows.")
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(rows))
    if group is not None:
        shuffled = shuffled[np.argsort(_turns([rows[place][group] for place in shuffled]), kind="stable")]
    return sorted(int(place) for place in shuffled[:limit])


def _turns(names: Sequence[str]) -> np.ndarray:
    """For each row, when its turn comes: its group's k-th row of n at (k + 1/2) / n."""
    _, groups, sizes = np.unique(np.asarray(names), return_inverse=True, return_counts=True)
    seen = np.zeros(len(sizes), dtype=int)
    turns = np.empty(len(groups))
    for place, own in enumerate(groups):
        turns[place] = (seen[own] + 0.5) / sizes[own]
        seen[own] += 1
    return turns
