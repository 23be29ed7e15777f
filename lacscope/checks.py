"""Checks that a model's residual stream is where we look for it."""

import weakref
from typing import Any

import torch
from torch import Tensor

from lacscope.adapters import Adapter, adapt, registered
from lacscope.adapters.stream import StreamReport as StreamReport
from lacscope.adapters.stream import UnsupportedModelError as UnsupportedModelError
from lacscope.adapters.stream import check_stream as check_stream
from lacscope.adapters.stream import nearly_equal
from lacscope.adapters.stream import require_sublayers as require_sublayers
from lacscope.adapters.weights import quantised_as


def check_blocks(model: Any) -> Adapter:
    """The model's adapter, once every block is known to have its residual hook points.

    Raises UnsupportedModelError naming the layers without one.
    """
    adapter = adapt(model)
    missing = [
        layer
        for layer in range(adapter.n_layers)
        if adapter.hook_point(f"blocks.{layer}.hook_resid_pre") is None
        or adapter.hook_point(f"blocks.{layer}.hook_resid_post") is None
    ]
    if missing:
        raise UnsupportedModelError(
            f"{adapter.name} has no hook_resid_pre / hook_resid_post at layers {missing} of {adapter.n_layers}: "
            "lacscope needs a decoder with one residual stream through all blocks."
        )
    return adapter


def require_derivatives(model: Any) -> None:
    """Raise UnsupportedModelError where weights are quantised: what comes back through them is no derivative.

    Some kernels give zeros (bitsandbytes' on a CPU), some an error of their own.
    """
    adapter = adapt(model)
    kinds = sorted({kind for module in adapter.model.modules() if (kind := quantised_as(module)) is not None})
    if kinds:
        raise UnsupportedModelError(
            f"the weights of {adapter.name} are quantised ({', '.join(kinds)}), and there are no derivatives through "
            "them to rely on. Load the model unquantised; measures without derivatives take it as it is."
        )


_HEADS: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()


def require_head(model: Any) -> None:
    """Raise UnsupportedModelError where final norm and head, put on the last stream, do not give the model's logits.

    Tried once a model, on a few tokens; the user's own hooks do not fire.
    """
    adapter = adapt(model)
    if adapter.model not in _HEADS:
        _HEADS[adapter.model] = _head_is_known(adapter)
    if not _HEADS[adapter.model]:
        raise UnsupportedModelError(
            f"{adapter.name}'s final norm and head on the stream that leaves the last block do not give its logits, so "
            "no logits of earlier streams can be had. Use a rule that needs no head."
        )


def _head_is_known(adapter: Adapter) -> bool:
    if not hasattr(adapter.model, "ln_final") or not hasattr(adapter.model, "unembed"):
        return False
    seen: list[Tensor] = []

    def keep(activation: Tensor, hook: Any) -> None:
        seen.append(activation.clone())

    ids = torch.arange(min(5, adapter.context_length or 5), device=adapter.device).unsqueeze(0) % adapter.vocab_size
    last = adapter.hook_point(f"blocks.{adapter.n_layers - 1}.hook_resid_post")
    with adapter.quiet(), torch.no_grad(), registered([(last, keep)]):
        logits, _ = adapter.step(ids, torch.ones_like(ids).bool(), None, use_cache=False, keep=None)
        found = adapter.logits_of(seen[0])
    return found.shape == logits.shape and nearly_equal(found, logits)
