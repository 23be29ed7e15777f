"""Random controls: what each keeps, and what it does not depend on."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lacscope.reproduction.controls import permuted_exits, random_layers, random_tokens
from lacscope.testing import synthetic_trace
from lacscope.trace_analyses._usage import layer_usage
from lacscope.traces._schema import PHASES, TraceError
from lacscope.traces._voids import voids

pytestmark = pytest.mark.once

DRAWS: dict[str, Callable[..., xr.DataArray]] = {
    "permuted_exits": permuted_exits,
    "random_layers": random_layers,
    "random_tokens": random_tokens,
    "random_layers, protected": lambda *args, **kw: random_layers(*args, **kw, protect=True),
    "random_tokens, protected": lambda *args, **kw: random_tokens(*args, **kw, protect=True),
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@pytest.fixture
def noisy() -> tuple[xr.Dataset, xr.DataArray]:
    """A trace and a mask with exits at every depth, some tokens all voids and some without one."""
    trace = synthetic_trace(4, 6, 15, 9, seed=3)
    rng = np.random.default_rng(5)
    share = rng.choice([0.0, 0.3, 0.6, 0.9, 1.0], size=(4, 1, trace.sizes["token"]))
    mask = trace["void"].copy(data=rng.random(trace["void"].shape) < share)
    return trace, mask & trace["valid"]


def exit_of(void: Any) -> int:
    """One token's exit by a plain loop."""
    found = 0
    for layer, halted in enumerate(void):
        if not halted:
            found = layer + 1
    return found


def groups(trace: xr.Dataset) -> list[tuple[int, np.ndarray]]:
    """(sample, positions) of each phase of each sample."""
    found = []
    for row in range(trace.sizes["sample"]):
        for phase in PHASES:
            here = trace["valid"].values[row] & (trace["phase"].values[row] == phase)
            found.append((row, np.flatnonzero(here)))
    return found


# --- laws of every random control -----------------------------------------------------------------------


@each_draw
def test_it_is_a_mask_of_the_trace(noisy: tuple[xr.Dataset, xr.DataArray], draw: Callable[..., xr.DataArray]) -> None:
    trace, mask = noisy
    control = draw(trace, mask, seed=1)
    assert (control.dims, control.dtype, control.name) == (("sample", "layer", "token"), np.dtype(np.float32), "void")
    assert (control.notnull() == trace["valid"]).all()
    assert control.attrs["seed"] == 1
    assert control.attrs["control"] in ("permuted_exits", "random_layers", "random_tokens")
    assert all(type(value) in (int, float, str) for value in control.attrs.values())
    # Any analysis takes it where it takes voids.
    layer_usage(trace, control)


@each_draw
def test_the_same_seed_gives_the_same_and_another_another(
    noisy: tuple[xr.Dataset, xr.DataArray], draw: Callable[..., xr.DataArray]
) -> None:
    first, again, other = (draw(*noisy, seed=seed) for seed in (1, 1, 2))
    assert first.identical(again)
    assert (first != other).any()
    assert (first != noisy[1]).any()


@each_draw
def test_a_samples_mask_does_not_depend_on_the_other_samples(
    noisy: tuple[xr.Dataset, xr.DataArray], draw: Callable[..., xr.DataArray]
) -> None:
    trace, mask = noisy
    together = draw(trace, mask, seed=7)
    for rows in ([2], [3, 1], [0, 2, 3]):
        # Also where the others' padding goes with them.
        length = int(trace["valid"].isel(sample=rows).sum("token").max())
        part = {"sample": rows, "token": slice(length)}
        np.testing.assert_array_equal(draw(trace.isel(part), mask.isel(part), seed=7), together.isel(part))


@each_draw
def test_samples_draw_differently(draw: Callable[..., xr.DataArray]) -> None:
    one = synthetic_trace(1, 6, 30, 9)
    mask = one["void"].copy(data=np.random.default_rng(0).random(one["void"].shape) < 0.4)
    other = {"sample": [4]}
    assert (draw(one, mask, seed=0).values != draw(one.assign_coords(other), mask.assign_coords(other), seed=0)).any()


@each_draw
@pytest.mark.parametrize("order", [("token", "layer", "sample"), ("layer", "sample", "token")])
def test_the_order_of_dimensions_does_not_matter(
    noisy: tuple[xr.Dataset, xr.DataArray], draw: Callable[..., xr.DataArray], order: tuple[str, ...]
) -> None:
    trace, mask = noisy
    assert draw(trace, mask.transpose(*order), seed=1).equals(draw(trace, mask, seed=1))


@each_draw
def test_voids_on_padding_are_not_counted(
    noisy: tuple[xr.Dataset, xr.DataArray], draw: Callable[..., xr.DataArray]
) -> None:
    trace, mask = noisy
    assert draw(trace, mask | ~trace["valid"], seed=1).equals(draw(trace, mask, seed=1))


@each_draw
def test_what_is_refused(trace_fixture: xr.Dataset, draw: Callable[..., xr.DataArray]) -> None:
    with pytest.raises(
        TraceError, match=r"matches one mask, not each along 'alpha': choose one with \.sel\(alpha=\.\.\.\)"
    ):
        draw(trace_fixture, voids(trace_fixture, [0.1, 0.8]), seed=0)
    with pytest.raises(TraceError, match="the voids are of another trace"):
        draw(trace_fixture, synthetic_trace(2)["void"], seed=0)
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        draw(trace_fixture, trace_fixture["void"], seed=-1)


def test_the_matched_alpha_is_kept(trace_fixture: xr.Dataset) -> None:
    assert random_layers(trace_fixture, voids(trace_fixture, 0.3), seed=0).attrs["alpha"] == 0.3


# --- readout --------------------------------------------------------------------------------------------


def test_permuted_exits_keep_the_exits_of_each_phase(noisy: tuple[xr.Dataset, xr.DataArray]) -> None:
    trace, mask = noisy
    control = permuted_exits(trace, mask, seed=0).values
    moved = 0
    for row, positions in groups(trace):
        before = [exit_of(mask.values[row, :, t]) for t in positions]
        after = [exit_of(control[row, :, t]) for t in positions]
        assert Counter(before) == Counter(after)
        moved += before != after
        for t, leaves in zip(positions, after, strict=True):
            assert control[row, :, t].tolist() == [False] * leaves + [True] * (6 - leaves)
    assert moved > 4


def test_permuted_exits_by_hand() -> None:
    trace = synthetic_trace(1, 4, 1, 0)
    mask = trace["void"].copy(data=np.array([[[False], [True], [False], [True]]]))
    assert permuted_exits(trace, mask, seed=0).values[0, :, 0].tolist() == [False, False, False, True]


# --- bypass: random layers ------------------------------------------------------------------------------


def test_random_layers_keep_each_tokens_count(noisy: tuple[xr.Dataset, xr.DataArray]) -> None:
    trace, mask = noisy
    control = random_layers(trace, mask, seed=0)
    np.testing.assert_array_equal(control.sum("layer"), mask.sum("layer").where(trace["valid"]))
    assert (control.attrs["protect"], control.attrs["shortfall"]) == (0, 0)


def test_random_layers_protected(noisy: tuple[xr.Dataset, xr.DataArray]) -> None:
    trace, mask = noisy
    control = random_layers(trace, mask, seed=0, protect=True)
    wanted = mask.sum("layer").values
    assert np.nansum(control.values[:, [0, -1]]) == 0
    np.testing.assert_array_equal(control.sum("layer").fillna(0), np.minimum(wanted, 4))
    assert control.attrs["shortfall"] == np.maximum(wanted - 4, 0).sum() > 0
    assert control.attrs["protect"] == 1


def test_random_layers_are_uniform() -> None:
    trace = synthetic_trace(1, 6, 6000, 0)
    mask = trace["void"].copy(data=np.broadcast_to(np.arange(6)[:, None] < 2, (1, 6, 6000)).copy())
    # 5 standard deviations of a share of 6000.
    np.testing.assert_allclose(random_layers(trace, mask, seed=0).mean(("sample", "token")), 1 / 3, atol=0.031)
    protected = random_layers(trace, mask, seed=0, protect=True).mean(("sample", "token"))
    np.testing.assert_allclose(protected[1:-1], 1 / 2, atol=0.033)


# --- bypass: random tokens ------------------------------------------------------------------------------


def test_random_tokens_keep_each_layers_rate_in_each_phase(noisy: tuple[xr.Dataset, xr.DataArray]) -> None:
    trace, mask = noisy
    control = random_tokens(trace, mask, seed=0)
    for row, positions in groups(trace):
        part = {"sample": row, "token": positions}
        np.testing.assert_array_equal(control.isel(part).sum("token"), mask.isel(part).sum("token"))
    assert control.attrs["shortfall"] == 0


def test_random_tokens_of_two_layers_are_drawn_apart() -> None:
    trace = synthetic_trace(1, 4, 40, 0)
    mask = trace["void"].copy(data=np.broadcast_to(np.arange(40) < 20, (1, 4, 40)).copy())
    control = random_tokens(trace, mask, seed=0).values[0]
    assert len({tuple(row) for row in control}) == 4


def test_random_tokens_protected_respread_the_budget(noisy: tuple[xr.Dataset, xr.DataArray]) -> None:
    trace, mask = noisy
    control = random_tokens(trace, mask, seed=0, protect=True)
    assert np.nansum(control.values[:, [0, -1]]) == 0
    shortfall = 0
    for row, positions in groups(trace):
        part = {"sample": row, "token": positions}
        rates, wanted = control.isel(part).sum("token").values, mask.isel(part).sum("token").values
        assert (rates[1:-1] >= wanted[1:-1]).all()
        assert rates.sum() == min(wanted.sum(), 4 * len(positions))
        shortfall += max(wanted.sum() - 4 * len(positions), 0)
    assert control.attrs["shortfall"] == shortfall


def test_the_respread_budget_falls_anywhere() -> None:
    trace = synthetic_trace(1, 6, 6000, 0)
    mask = trace["void"].copy(data=np.broadcast_to(np.arange(6)[:, None] == 0, (1, 6, 6000)).copy())
    control = random_tokens(trace, mask, seed=0, protect=True).values[0, 1:-1]
    # 5 standard deviations of 1/4 of a share of 6000, and of 3000 x 4.
    np.testing.assert_allclose(control.mean(axis=1), 1 / 4, atol=0.028)
    np.testing.assert_allclose([control[:, :3000].mean(), control[:, 3000:].mean()], 1 / 4, atol=0.02)


def test_random_tokens_protected_without_room() -> None:
    trace = synthetic_trace(1, 3, 5, 0)
    rows = np.array([[True, True, True, False, False], [True] * 4 + [False], [False] * 5])
    control = random_tokens(trace, trace["void"].copy(data=rows[None]), seed=0, protect=True)
    assert control.values[0].tolist() == [[False] * 5, [True] * 5, [False] * 5]
    assert control.attrs["shortfall"] == 2


@pytest.mark.parametrize("n_layers", [1, 2])
def test_nothing_is_left_where_every_layer_is_protected(n_layers: int) -> None:
    trace = synthetic_trace(1, 3, 5, 0).isel(layer=slice(n_layers)).assign_attrs(n_layers=n_layers)
    mask = trace["void"].copy(data=np.ones((1, n_layers, 5), dtype=bool))
    for draw in (random_layers, random_tokens):
        control = draw(trace, mask, seed=0, protect=True)
        assert not control.any()
        assert control.attrs["shortfall"] == 5 * n_layers
