"""Random control masks, matched to the voids of a trace.

They are drawn per sample, from ``numpy.random.default_rng([seed, sample id])``: a sample's mask does not depend on
which other samples are in the trace. Sinks are tokens like others here: an effect spends on them too.
"""

from collections.abc import Callable, Collection, Hashable

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int

from lacscope.traces._masks import VoidMask
from lacscope.traces._schema import PHASES, TraceError, require_first_layers, validate
from lacscope.traces._voids import labelled, resolve_voids

_DIMS = ("sample", "layer", "token")
# voids and phases of one sample's valid tokens -> the control's voids, and how many found no place
_Draw = Callable[
    [np.random.Generator, Bool[np.ndarray, "layer token"], np.ndarray], tuple[Bool[np.ndarray, "layer token"], int]
]


def permuted_exits(trace: xr.Dataset, voids: xr.DataArray, *, seed: int) -> VoidMask:
    """Control of ``readout``: the exits, permuted over the tokens of the same phase of the same sample.

    Below a token's exit every layer is active in the mask, from it on every layer is a void. The voids below the
    exit are not kept: ``readout`` depends on the exit alone. So this is no control of ``bypass``.

    Args:
        trace: a trace.
        voids: the mask to match, over (sample, layer, token).
        seed: the seed of the draw, >= 0.

    Returns:
        Mask (sample, layer, token) as from :func:`lacscope.voids`: 1 at voids, NaN where the token is not valid;
        attributes ``control`` and ``seed``.

    Raises:
        TraceError: the mask is another trace's, or has a dimension ``alpha`` or ``rule``.
        ValueError: a negative seed.

    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace()
    >>> permuted_exits(trace, trace["void"], seed=0).attrs["control"]
    'permuted_exits'
    """

    def draw(rng: np.random.Generator, void: np.ndarray, phase: np.ndarray) -> tuple[np.ndarray, int]:
        exits = _exits(void)
        for name in PHASES:
            exits[phase == name] = rng.permutation(exits[phase == name])
        return np.arange(len(void))[:, None] >= exits, 0

    return _drawn(trace, voids, draw, seed, {"control": "permuted_exits"})


def random_layers(trace: xr.Dataset, voids: xr.DataArray, *, seed: int, protect: bool = False) -> VoidMask:
    """Control of ``bypass``: each token keeps its number of voids, on random layers.

    Args:
        trace: a trace.
        voids: the mask to match: the voids realised in the bypass run.
        seed: the seed of the draw, >= 0.
        protect: layers 0 and L-1 are never voids. A token with more than L-2 voids then has L-2.

    Returns:
        Mask (sample, layer, token); attributes ``control``, ``seed``, ``protect`` (0 or 1) and
        ``shortfall``, the (layer, token) pairs that found no place.

    Raises:
        TraceError, ValueError: the reasons of :func:`permuted_exits`.

    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace()
    >>> control = random_layers(trace, trace["void"], seed=0)
    >>> bool((control.sum("layer") == trace["void"].sum("layer")).all())
    True
    """

    def draw(rng: np.random.Generator, void: np.ndarray, phase: np.ndarray) -> tuple[np.ndarray, int]:
        open_layers = _open_layers(len(void), protect)
        count = void.sum(axis=0)
        placed = np.zeros_like(void)
        # The ranks of random keys are a random order of the layers, for each token. Drawn token by token, a
        # prompt's masks do not depend on the answer that follows it.
        order = rng.random((void.shape[1], open_layers.sum())).T.argsort(axis=0).argsort(axis=0)
        placed[open_layers] = order < count
        return placed, int(count.sum() - placed.sum())

    return _drawn(trace, voids, draw, seed, {"control": "random_layers", "protect": int(protect)})


def random_tokens(trace: xr.Dataset, voids: xr.DataArray, *, seed: int, protect: bool = False) -> VoidMask:
    """Control of ``bypass``: each layer keeps its rate, with the tokens random within the sample and phase.

    Args:
        trace: a trace.
        voids: the mask to match: the voids realised in the bypass run.
        seed: the seed of the draw, >= 0.
        protect: layers 0 and L-1 are never voids. So that the budget stays the same, as under
            :func:`random_layers`, their voids go to random active (layer, token) pairs of the other layers in
            the same sample and phase: those layers' rates rise by so much.

    Returns:
        Mask (sample, layer, token); attributes ``control``, ``seed``, ``protect`` (0 or 1) and
        ``shortfall``, the pairs that found no place since the other layers were full.

    Raises:
        TraceError, ValueError: the reasons of :func:`permuted_exits`.

    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace()
    >>> control = random_tokens(trace, trace["void"], seed=0)
    >>> bool((control.sum("token") == trace["void"].sum("token")).all())
    True
    """

    def draw(rng: np.random.Generator, void: np.ndarray, phase: np.ndarray) -> tuple[np.ndarray, int]:
        open_layers = _open_layers(len(void), protect)
        placed, shortfall = np.zeros_like(void), 0
        for name in PHASES:
            part = np.ix_(open_layers, phase == name)
            kept = rng.permuted(void[part], axis=1)
            free = np.flatnonzero(~kept)
            surplus = int(void[~open_layers][:, phase == name].sum())
            moved = min(surplus, len(free))
            kept.flat[rng.permutation(free)[:moved]] = True
            placed[part] = kept
            shortfall += surplus - moved
        return placed, shortfall

    return _drawn(trace, voids, draw, seed, {"control": "random_tokens", "protect": int(protect)})


def _drawn(
    trace: xr.Dataset, voids: xr.DataArray, draw: _Draw, seed: int, attrs: dict[str, str | int | float]
) -> VoidMask:
    """The control's mask, drawn sample by sample over the valid tokens."""
    trace = validate(trace)
    mask = _one_mask(trace, voids)
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}.")
    valid, phase = trace["valid"].values, trace["phase"].values
    drawn = np.zeros(mask.shape, dtype=bool)
    shortfall = 0
    for row, sample in enumerate(trace["sample"].values):
        rng = np.random.default_rng([seed, int(sample)])
        own = valid[row]
        drawn[row][:, own], missing = draw(rng, mask.values[row][:, own], phase[row, own])
        shortfall += missing
    own_attrs = {**attrs, "seed": int(seed)} | ({"shortfall": shortfall} if "protect" in attrs else {})
    return labelled(mask.copy(data=drawn), trace, own_attrs | _alpha_of(voids))


def _alpha_of(voids: xr.DataArray) -> dict[str, str | int | float]:
    """The alpha of the voids that were matched, where they say it."""
    return {"alpha": voids.attrs["alpha"]} if "alpha" in voids.attrs else {}


def _one_mask(trace: xr.Dataset, voids: xr.DataArray) -> xr.DataArray:
    """The mask over (sample, layer, token) and valid tokens, if it is one mask of this trace."""
    require_first_layers(trace, "a control puts voids on any of them")
    mask = resolve_voids(trace, voids)
    check_single(mask.dims)
    check_single(trace.dims)
    return mask.transpose(*_DIMS)


def check_single(dims: Collection[Hashable]) -> None:
    """Raise TraceError where there is one mask for each alpha or rule."""
    for dim in ("alpha", "rule"):
        if dim in dims:
            raise TraceError(f"a control matches one mask, not each along '{dim}': choose one with .sel({dim}=...).")


def _exits(void: Bool[np.ndarray, "layer token"]) -> Int[np.ndarray, " token"]:
    """(last active layer) + 1 of each token, 0 where all are voids."""
    depth = np.arange(1, len(void) + 1)[:, None]
    return (~void * depth).max(axis=0)


def _open_layers(n_layers: int, protect: bool) -> Bool[np.ndarray, " layer"]:
    """The layers that may be voids."""
    open_layers = np.ones(n_layers, dtype=bool)
    if protect:
        open_layers[[0, -1]] = False
    return open_layers
