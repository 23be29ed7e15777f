"""Jacobian-vector products of every block at one token, in forward mode, within a cached decode step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from jaxtyping import Bool, Float
from torch import Tensor

from lacscope.guards._temporary import Note, Temporary, temporary, together
from lacscope.model_measures._residuals import Residuals
from lacscope.models._checks import UnsupportedModelError, require_derivatives, rows_at_once
from lacscope.models.adapters import Adapter, dual_level, registered, without_gradients


@without_gradients()
def identity_distances(
    adapter: Adapter, read: Residuals, kept: Bool[Tensor, " pos"], n_probes: int, rng: np.random.Generator
) -> Float[Tensor, "layer token"]:
    """Root mean over Gaussian v of ||J v - v||^2 / ||v||^2 at each kept token, J = d h_{l+1}[t] / d h_l[t].

    Gradients of other tokens are no part of J: their keys and values are in the cache, without tangents. The
    prompt is read once, in ``n_probes`` equal rows.

    Raises:
        UnsupportedModelError: the model has an operation without a forward-mode derivative, or quantised weights.
    """
    require_derivatives(adapter)
    if rows_at_once(adapter, n_probes) < n_probes:
        raise UnsupportedModelError(
            f"{adapter.name} reads one row at a time with a cache, and a prompt's {n_probes} probes are rows of a step."
        )
    probe = _Probe(adapter.n_layers)
    columns: list[Tensor] = []
    cache = None
    d_model = read.stream.shape[-1]
    last = int(kept.nonzero().max()) if bool(kept.any()) else -1
    with probe.on(adapter), adapter.evaluating(), _plain_attention():
        for t in range(last + 1):
            probe.tangent = None
            if bool(kept[t]):
                probe.tangent = torch.from_numpy(rng.standard_normal((n_probes, 1, d_model))).to(read.stream)
            token = read.tokens[t].expand(n_probes, 1)
            seen = torch.ones(n_probes, t + 1, dtype=torch.bool, device=token.device)
            try:
                with dual_level():
                    _, cache = adapter.step(token, seen, cache, use_cache=True, keep=1)
            except NotImplementedError as error:
                raise UnsupportedModelError(
                    f"an operation in {adapter.name} has no forward-mode derivative in PyTorch, so its blocks' "
                    f"Jacobians cannot be probed ({str(error).splitlines()[0]}). The other measures need none."
                ) from error
            if probe.tangent is not None:
                columns.append(torch.stack([one.cpu() for one in probe.found]))
    return torch.stack(columns, dim=1) if columns else torch.empty(adapter.n_layers, 0)


@temporary
def _plain_attention(note: Note) -> None:
    """Attention by the one kernel that has forward-mode derivatives."""
    backends = torch.backends.cuda
    for kernel in ("math", "flash", "mem_efficient", "cudnn"):
        enable = f"enable_{kernel}_sdp"
        note("attention kernel", _call, backends, enable, getattr(backends, f"{kernel}_sdp_enabled")())
        _call(backends, enable, kernel == "math")


def _call(owner: Any, name: str, value: bool) -> None:
    getattr(owner, name)(value)


class _Probe:
    """Gives what enters each block a tangent of its own, and compares with it the tangent that leaves."""

    def __init__(self, n_layers: int) -> None:
        self.tangent: Tensor | None = None
        self.found = [torch.empty(())] * n_layers

    def on(self, adapter: Adapter) -> Temporary[None]:
        """The probing hooks, after the user's."""
        points = [
            (adapter.hook_point(f"blocks.{layer}.{name}"), make(layer))
            for layer in range(adapter.n_layers)
            for name, make in (("hook_resid_pre", self._enter), ("hook_resid_post", self._leave))
        ]
        lean = together() if adapter.user_hooked() else adapter.lean()
        return together(lean, registered(points))

    def _enter(self, layer: int) -> Callable[..., Tensor | None]:
        def hook(activation: Tensor, hook: Any) -> Tensor | None:
            if self.tangent is None:
                return None
            stream = forward_ad.unpack_dual(activation).primal
            return forward_ad.make_dual(stream, self.tangent.to(stream.device))

        return hook

    def _leave(self, layer: int) -> Callable[..., Tensor | None]:
        def hook(activation: Tensor, hook: Any) -> Tensor | None:
            if self.tangent is None:
                return None
            stream, moved = forward_ad.unpack_dual(activation)
            probe = self.tangent.to(stream.device)
            # No tangent: what leaves does not depend on what entered.
            change = (torch.zeros_like(probe) if moved is None else moved) - probe
            ratios = _square(change) / _square(probe)
            self.found[layer] = ratios.mean().sqrt()
            return stream

        return hook


def _square(x: Float[Tensor, "probe 1 d_model"]) -> Float[Tensor, " probe"]:
    return torch.linalg.vector_norm(x, dim=(1, 2), dtype=torch.float32) ** 2
