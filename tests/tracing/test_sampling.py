"""The next token: greedy, or drawn; a sample's draws depend on its seed and id and on nothing else."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from lacscope.tracing._sampling import Sampler

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, -3.0])


def draws(sampler: Sampler, logits: torch.Tensor, n: int, sample_ids: Sequence[int] = (0,)) -> torch.Tensor:
    """Tokens of n steps, [row, step], with the same logits each time."""
    sampler.start(list(sample_ids))
    rows = logits.expand(len(sample_ids), -1)
    return torch.stack([sampler(rows) for _ in range(n)], dim=1)


def shares(logits: torch.Tensor, n: int = 20_000, **options: float) -> torch.Tensor:
    """How often each token is drawn: n samples of one step each, 500 a batch."""
    sampler = Sampler(**options)  # type: ignore[arg-type]
    found = [draws(sampler, logits, 1, range(start, start + 500)).flatten() for start in range(0, n, 500)]
    return torch.bincount(torch.cat(found), minlength=len(logits)) / n


def test_greedy_takes_the_highest_and_needs_no_seed() -> None:
    sampler = Sampler()
    assert sampler(torch.stack([LOGITS, LOGITS.flip(0)])).tolist() == [0, 5]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    n = 20_000
    expected = torch.softmax(LOGITS / temperature, dim=-1)
    # Five standard errors of a share of n draws: one run in 300,000 would miss by chance, and the seed is fixed.
    tolerance = 5 * (expected * (1 - expected) / n).sqrt()
    assert ((shares(LOGITS, n, temperature=temperature) - expected).abs() <= tolerance).all()


def test_steps_of_one_sample_follow_the_softmax_too() -> None:
    n = 4000
    found = torch.bincount(draws(Sampler(1.0), LOGITS, n)[0], minlength=6) / n
    expected = torch.softmax(LOGITS, dim=-1)
    assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / n).sqrt()).all()


# Probabilities 1/2, 1/4, 1/8, 1/8, not in order.
HALVES = torch.tensor([0.125, 0.5, 0.125, 0.25]).log()


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.01, [1]),
        (0.5, [1]),
        (0.51, [1, 3]),
        (0.75, [1, 3]),
        (0.76, [0, 1, 3]),
        (0.9, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: list[int]) -> None:
    found = shares(HALVES, 2000, temperature=1.0, top_p=top_p)
    assert found.nonzero().flatten().tolist() == kept
    expected = HALVES.exp()[kept] / HALVES.exp()[kept].sum()
    np.testing.assert_allclose(found[kept], expected, atol=5 * 0.5 / 2000**0.5)


def test_top_p_1_keeps_the_last_of_a_long_tail() -> None:
    # In float32 the sum passes 1 well before the end of a vocabulary this long.
    sampler = Sampler(temperature=1.0)
    last = draws(sampler, torch.zeros(50_000), 1, range(300)).flatten()
    assert last.max() > 49_000
    assert last.min() < 1000


def test_a_row_does_not_depend_on_its_batch() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1000, generator=rng)
    sampler = Sampler(0.9, 0.9, seed=7)

    def drawn(rows: list[int]) -> dict[int, list[int]]:
        sampler.start([10 + row for row in rows])
        steps = torch.stack([sampler(logits[rows]) for _ in range(20)], dim=1)
        return dict(zip(rows, steps.tolist(), strict=True))

    whole = drawn([0, 1, 2])
    assert drawn([2, 0]) == {2: whole[2], 0: whole[0]}
    assert drawn([1]) == {1: whole[1]}


def test_samples_and_seeds_draw_apart() -> None:
    both = draws(Sampler(1.0, seed=1), LOGITS, 40, [0, 1])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(draws(Sampler(1.0, seed=2), LOGITS, 40)[0], both[0])
    # (seed 1, sample 0) and (seed 0, sample 1) are two draws, as would not be with seed + sample.
    assert not torch.equal(draws(Sampler(1.0, seed=0), LOGITS, 40, [1])[0], both[0])


def test_the_same_seed_draws_the_same() -> None:
    assert torch.equal(draws(Sampler(1.0, seed=5), LOGITS, 40), draws(Sampler(1.0, seed=5), LOGITS, 40))


def test_global_random_state_is_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]  # noqa: NPY002
    draws(Sampler(1.0, 0.9, seed=3), LOGITS, 5)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_a_low_temperature_is_greedy_not_nan(temperature: float) -> None:
    assert draws(Sampler(temperature), LOGITS * 50, 20).unique().tolist() == [0]


def test_large_logits_and_impossible_tokens() -> None:
    logits = torch.tensor([1e4, 1e4, -torch.inf, 0.0])
    assert draws(Sampler(1.0), logits, 200).unique().tolist() == [0, 1]


def test_half_precision_logits_are_drawn_from_as_they_are() -> None:
    half = LOGITS.to(torch.bfloat16)
    assert torch.equal(draws(Sampler(1.0), half, 50), draws(Sampler(1.0), half.float(), 50))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, r"temperature must be a finite number >= 0 \(0 is greedy\), got -0\.1"),
        ({"temperature": float("nan")}, r"temperature must be .*got nan"),
        ({"temperature": float("inf")}, r"temperature must be .*got inf"),
        ({"top_p": 0}, r"top_p must be in \(0, 1\] \(1 keeps every token\), got 0"),
        ({"top_p": 1.1}, r"top_p must be .*got 1\.1"),
        ({"top_p": float("nan")}, r"top_p must be .*got nan"),
        ({"seed": -1}, r"seed must be an integer from 0 to 2\*\*63 - 1, got -1"),
        ({"seed": 2**63}, r"seed must be .*got 9223372036854775808"),
        ({"seed": 0.5}, r"seed must be .*got 0\.5"),
        ({"seed": True}, r"seed must be .*got True"),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(**options)  # type: ignore[arg-type]


def test_selected_rows_draw_on_as_if_nothing_had_been_left_out() -> None:
    whole, part = Sampler(1.0, seed=3), Sampler(1.0, seed=3)
    rows = LOGITS.expand(4, -1)
    for sampler in (whole, part):
        sampler.start([0, 1, 2, 3])
        sampler(rows)
    part.select([3, 1])
    for _ in range(20):
        assert part(rows[:2]).tolist() == whole(rows)[[3, 1]].tolist()
