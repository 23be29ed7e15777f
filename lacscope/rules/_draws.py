"""Randomness that belongs to a token: drawn from a seed, the sample's id and the position, never from a generator's
state. So what is drawn for a token depends neither on its batch nor on what was read before it."""

import numpy as np
from jaxtyping import UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def random_bits(seed: int, *parts: np.ndarray | int) -> UInt64[np.ndarray, "..."]:
    """64 random bits for each combination of ``parts`` (integers, broadcast against each other).

    Each part in turn is taken in by the mixing step of SplitMix64 (Steele, Lea and Flood 2014).

    >>> bool((random_bits(0, np.arange(3)) == random_bits(0, np.arange(5))[:3]).all())
    True
    """
    state = np.array([seed % 2**64], dtype=np.uint64)
    for part in (0, *parts):
        words = np.atleast_1d(np.asarray(part, dtype=np.int64)).astype(np.uint64)
        state = _mixed((state + _GOLDEN) ^ _mixed(words + _GOLDEN))
    return state


def random_units(bits: UInt64[np.ndarray, "..."]) -> np.ndarray:
    """Bits as numbers in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(words: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
