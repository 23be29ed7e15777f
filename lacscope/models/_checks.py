"""Checks that a model's residual stream is where we look for it, and that the model computes what it should."""

import weakref
from typing import Any

import torch
from torch import Tensor

from lacscope.models.adapters import Adapter, adapt, registered, reordering_plan, self_check, without_gradients
from lacscope.models.adapters import UnsupportedModelError as UnsupportedModelError
from lacscope.models.adapters._rounding import nearly_equal
from lacscope.models.adapters._stream import StreamReport as StreamReport
from lacscope.models.adapters._stream import check_stream as check_stream
from lacscope.models.adapters._stream import require_sublayers as require_sublayers
from lacscope.models.adapters._weights import quantised_as


def check_points(model: Any) -> Adapter:
    """The model's adapter, once every block is known to have its residual hook points. Runs nothing.

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


def check_blocks(model: Any, *, lean: bool = False) -> Adapter:
    """The model's adapter, once it is known to have its residual hook points and to compute what it should.

    See :func:`lacscope.models.adapters.self_check`: tried once a model.

    Args:
        lean: the caller reads the residual points alone, and runs the model inside ``adapter.lean()``; where it
            cannot (a user's hook stands inside a block), it asks :func:`require_full`.

    Raises:
        UnsupportedModelError: a block without hook points, a model that reads what comes after a token, or a bridge
            whose logits are not the wrapped model's.
    """
    adapter = check_points(model)
    found = self_check(adapter)
    if found is None:
        return adapter
    if not found.right(found.stream):
        raise UnsupportedModelError(
            f"{adapter.name}: {found.stream}. lacscope needs a decoder with one residual stream through all blocks."
        )
    if not found.right(found.causal):
        raise UnsupportedModelError(
            f"{adapter.name} is no causal decoder: what it makes of a token changes with the tokens after it "
            f"({found.causal}), as in a bidirectional encoder such as BERT. lacscope needs a model that reads from "
            "left to right."
        )
    if not found.right(found.lean):
        raise UnsupportedModelError(
            f"{adapter.name}: TransformerLens's bridge does not compute what the wrapped model does ({found.lean}), so "
            "its streams are those of another model. Run it without lacscope, or with a TransformerLens that does."
        )
    if not lean:
        require_full(adapter)
    return adapter


def require_full(model: Any) -> None:
    """Raise UnsupportedModelError where the model is right only with the insides of its blocks unhooked."""
    adapter = adapt(model)
    found = self_check(adapter)
    if found is not None and not found.right(found.bridge):
        raise UnsupportedModelError(
            f"{adapter.name}: with hooks inside its blocks TransformerLens's bridge does not compute what the wrapped "
            f"model does ({found.bridge}). Load it with hooks='residual'."
        )


def require_decode(model: Any) -> None:
    """Raise UnsupportedModelError where cached steps of the model are not what reading everything again gives."""
    adapter = adapt(model)
    found = self_check(adapter)
    if found is not None and not found.right(found.decode):
        raise UnsupportedModelError(
            f"{adapter.name}: a step with its cache is not what reading the whole text again gives ({found.decode}), "
            "so nothing it generates could be trusted. Read given answers with responses= instead."
        )


def require_one_run(adapter: Adapter, recorded: int, read: int) -> None:
    """Raise UnsupportedModelError where the steps of one generation were recorded as runs of their own."""
    if recorded != read:
        raise UnsupportedModelError(
            f"{adapter.name} read {read} tokens in cached steps, of which {recorded} went on from its prompt: its "
            "cache was lost on the way. Read given answers with responses= instead."
        )


def rows_at_once(model: Any, wanted: int) -> int:
    """How many prompts of unequal length the model may read in one batch: one, where left pads change its numbers."""
    found = self_check(adapt(model))
    return wanted if found is None or found.right(found.padding) else 1


_DIVIDES: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()


def divides_rows(model: Any) -> bool:
    """True where the last block may hand on more rows than the model was given to read.

    Tried once a model, on a few tokens; the user's own hooks do not fire. Some models (GPTBigCode) give their last
    stream the shape of what they read, and one that cannot have pads has rows that cannot be told apart.
    """
    adapter = adapt(model)
    if rows_at_once(adapter, 2) < 2:
        return False
    if adapter.model not in _DIVIDES:
        _DIVIDES[adapter.model] = _takes_more_rows(adapter)
    return _DIVIDES[adapter.model]


def _takes_more_rows(adapter: Adapter) -> bool:
    def twice(activation: Tensor, hook: Any) -> Tensor:
        return torch.cat([activation, activation])

    ids = torch.arange(min(5, adapter.context_length or 5), device=adapter.device).unsqueeze(0) % adapter.vocab_size
    last = adapter.hook_point(f"blocks.{adapter.n_layers - 1}.hook_resid_post")
    with adapter.quiet(), without_gradients(), registered([(last, twice)]):
        try:
            logits, _ = adapter.step(ids, torch.ones_like(ids).bool(), None, use_cache=False, keep=1)
        except RuntimeError:
            return False
    return logits.shape[0] == 2 and nearly_equal(logits[0], logits[1])


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
    with adapter.quiet(), without_gradients(), registered([(last, keep)]):
        logits, _ = adapter.step(ids, torch.ones_like(ids).bool(), None, use_cache=False, keep=None)
        found = adapter.logits_of(seen[0])
    return found.shape == logits.shape and nearly_equal(found, logits)


def refuse_reordered(adapter: Adapter, instead: str) -> None:
    """Raise ValueError for a model under a plan that does more than skip; ``instead`` says why, and what to do."""
    plan = reordering_plan(adapter.model, adapter.n_layers)
    if plan is not None:
        raise ValueError(f"{adapter.name} runs under the plan [{plan}], which does more than skip: {instead}")
