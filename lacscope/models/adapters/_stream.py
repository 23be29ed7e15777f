"""Whether a model's residual stream is where its hook points say, found out by a short pass.

Among the adapters, for rules that are fitted to a model ask it too.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lacscope.models.adapters import Adapter, UnsupportedModelError, adapt, registered
from lacscope.models.adapters._grad_mode import without_gradients
from lacscope.models.adapters._rounding import nearly_equal as nearly_equal


@dataclass(frozen=True)
class StreamReport:
    """What a short pass showed of a model: see :func:`check_stream`."""

    chained: bool
    sublayers: bool
    reason: str


_REPORTS: "weakref.WeakKeyDictionary[Any, StreamReport]" = weakref.WeakKeyDictionary()


def check_stream(model: Any) -> StreamReport:
    """Run a few tokens and see whether the hook points are what their names say.

    ``chained``: each block's resid_post is the next one's resid_pre. ``sublayers``: resid_pre + attn_out +
    mlp_out = resid_post in every block, and zeroing both leaves resid_post = resid_pre. The user's own
    hooks do not fire. The answer is kept for the life of the model.
    """
    adapter = adapt(model)
    if adapter.model not in _REPORTS:
        _REPORTS[adapter.model] = _inspect_stream(adapter)
    return _REPORTS[adapter.model]


def _inspect_stream(adapter: Adapter) -> StreamReport:
    with adapter.quiet(), without_gradients():
        names = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
        seen = _short_pass(adapter, names, zero=False)
        layers = range(adapter.n_layers)
        pairs = [(seen.get((k, "hook_resid_post")), seen.get((k + 1, "hook_resid_pre"))) for k in layers[:-1]]
        chained = all(a is not None and b is not None and torch.equal(a.to(b.device), b) for a, b in pairs)
        if not chained:
            return StreamReport(False, False, "a block's hook_resid_post is not what the next block reads")
        for layer in layers:
            pre, post, attn, mlp = (seen.get((layer, name)) for name in names)
            if attn is None or mlp is None:
                return StreamReport(True, False, f"blocks.{layer} has no hook_attn_out / hook_mlp_out")
            assert pre is not None
            assert post is not None
            # A layer on another device is handed the stream only after the hook point has seen it.
            pre, attn, mlp = (part.to(post.device) for part in (pre, attn, mlp))
            if attn.shape != pre.shape or mlp.shape != pre.shape or not nearly_equal(pre + attn + mlp, post):
                return StreamReport(True, False, f"at blocks.{layer} resid_pre + attn_out + mlp_out is not resid_post")
        zeroed = _short_pass(adapter, names, zero=True)
        for layer in layers:
            pre, post = zeroed[layer, "hook_resid_pre"], zeroed[layer, "hook_resid_post"]
            if not nearly_equal(pre, post):
                return StreamReport(
                    True, False, f"at blocks.{layer} zeroing attn_out and mlp_out does not leave the stream unchanged"
                )
    return StreamReport(True, True, "")


def _short_pass(adapter: Adapter, names: tuple[str, ...], *, zero: bool) -> dict[tuple[int, str], Tensor]:
    seen: dict[tuple[int, str], Tensor] = {}

    def watch(layer: int, name: str) -> Any:
        def hook(activation: Tensor, hook: Any) -> Tensor | None:
            if zero and name in ("hook_attn_out", "hook_mlp_out"):
                return torch.zeros_like(activation)
            seen[layer, name] = activation.clone()
            return None

        return hook

    points = []
    for layer in range(adapter.n_layers):
        for name in names:
            point = adapter.hook_point(f"blocks.{layer}.{name}")
            if point is not None:
                points.append((point, watch(layer, name)))
    length = min(5, adapter.context_length or 5)
    ids = torch.arange(length, device=adapter.device).unsqueeze(0) % adapter.vocab_size
    with registered(points):
        adapter.step(ids, torch.ones_like(ids).bool(), None, use_cache=False, keep=1)
    return seen


def require_sublayers(model: Any) -> None:
    """Raise UnsupportedModelError, with the reason, where attn_out and mlp_out are not the block's parts."""
    adapter = adapt(model)
    if adapter.hook_point("blocks.0.hook_attn_out") is None or adapter.hook_point("blocks.0.hook_mlp_out") is None:
        raise UnsupportedModelError(
            f"{adapter.name} has no hook_attn_out / hook_mlp_out. A model loaded with hooks='residual' has the "
            "block-level points alone: reload it with load_model(..., hooks='full')."
        )
    report = check_stream(adapter)
    if not report.sublayers:
        raise UnsupportedModelError(
            f"sublayer measures are refused for {adapter.name}: {report.reason}. Use block-level measures."
        )
