"""Samples: seeded, nested, in proportion."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacscope.tasks._selection import choose

pytestmark = pytest.mark.once

SIZES = {"a": 300, "b": 100, "c": 100, "d": 37, "e": 3}
ROWS = [{"subject": name} for name, size in SIZES.items() for _ in range(size)]


def test_all_rows() -> None:
    everything = list(range(len(ROWS)))
    assert choose(ROWS, None, seed=0) == everything
    assert choose(ROWS, len(ROWS), seed=1, group="subject") == everything
    assert choose(ROWS, 10_000, seed=1) == everything
    assert choose([], 5, seed=0, group="subject") == []


@pytest.mark.parametrize("group", [None, "subject"])
def test_the_seed_decides(group: str | None) -> None:
    first = choose(ROWS, 50, seed=0, group=group)
    assert first == choose(ROWS, 50, seed=0, group=group)
    assert first == sorted(set(first))
    assert len(first) == 50
    assert first != choose(ROWS, 50, seed=1, group=group)


def test_the_unstratified_sample_is_the_head_of_a_permutation() -> None:
    expected = np.random.default_rng(7).permutation(len(ROWS))[:20]
    assert choose(ROWS, 20, seed=7) == sorted(expected.tolist())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 539), st.integers(1, 540), st.integers(0, 5), st.sampled_from([None, "subject"]))
def test_a_smaller_sample_is_part_of_a_larger(one: int, other: int, seed: int, group: str | None) -> None:
    small, large = sorted((one, other))
    assert set(choose(ROWS, small, seed, group)) <= set(choose(ROWS, large, seed, group))


@pytest.mark.parametrize("limit", [1, 5, 17, 54, 100, 270, 539])
def test_seats_are_websters(limit: int) -> None:
    # Independent: seats one at a time to the group with the largest size / (2 seats + 1).
    seats = dict.fromkeys(SIZES, 0)
    quotients = []
    for _ in range(limit):
        winner = max(SIZES, key=lambda name: SIZES[name] / (2 * seats[name] + 1))
        quotients.append(SIZES[winner] / (2 * seats[winner] + 1))
        seats[winner] += 1
    got = Counter(ROWS[place]["subject"] for place in choose(ROWS, limit, seed=3, group="subject"))
    # Equal quotients (b and c) may fall either way: compare the quotients spent.
    spent = sorted((SIZES[name] / (2 * k + 1) for name, n in got.items() for k in range(n)), reverse=True)
    assert spent == pytest.approx(quotients)
    assert all(abs(got[name] - limit * size / len(ROWS)) <= 1 for name, size in SIZES.items())


def test_ties_fall_by_the_seed() -> None:
    rows = [{"subject": name} for name in "abcd"]
    assert {choose(rows, 1, seed, "subject")[0] for seed in range(30)} == {0, 1, 2, 3}


@pytest.mark.parametrize("limit", [0, -3])
def test_bad_limits(limit: int) -> None:
    with pytest.raises(ValueError, match=rf"^limit is {limit}; give at least 1, or None for all rows\.$"):
        choose(ROWS, limit, seed=0)
