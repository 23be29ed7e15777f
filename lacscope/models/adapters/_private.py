"""Undocumented names of other libraries that lacscope reads: what each is for, and whether it is there.

A release may rename any of these. Some would then be missed at once, others in silence, with a wrong trace: so all of
a library's are looked for before its first use.
"""

import functools
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from operator import attrgetter, itemgetter
from typing import Any, Literal

import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from lacscope.models.adapters._unsupported import UnsupportedModelError

Library = Literal["torch", "transformer-lens", "transformers"]
TESTED: dict[Library, str] = {"torch": "2.x", "transformer-lens": "3.9 and 4.3", "transformers": "5.23"}

# By attrgetter, which costs what the attribute itself costs: they are read in each pass.
forward_hooks: Callable[[nn.Module], Any] = attrgetter("_forward_hooks")
forward_pre_hooks: Callable[[nn.Module], Any] = attrgetter("_forward_pre_hooks")
backward_hooks: Callable[[nn.Module], Any] = attrgetter("_backward_hooks")
# Of a module's ``vars``: all that it has.
hooks_in: Callable[[dict[str, Any]], tuple[Any, ...]] = itemgetter(
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
)
forward_level: Callable[[Any], int] = attrgetter("_current_level")
children: Callable[[nn.Module], dict[str, Any]] = attrgetter("_modules")
edits_of: Callable[[Tensor], int] = attrgetter("_version")
hook_registry: Callable[[Any], dict[str, Any]] = attrgetter("_hook_registry")


def start_of(block: Any) -> int | None:
    """The layer at which the pass under way starts; None for a whole pass. A block is told in its first partial one."""
    found: int | None = getattr(block, "_start_at_layer_idx", None)
    return found


def stop_of(block: Any) -> int | None:
    """The layer before which the pass under way stops; None for a whole pass."""
    found: int | None = getattr(block, "_stop_at_layer_idx", None)
    return found


def set_forward_hooks(module: nn.Module, hooks: Any) -> None:
    """Have these forward hooks on a module in place of those it has."""
    module._forward_hooks = hooks


def attention_of(hf_model: Any) -> str | None:
    """How a transformers model computes attention; None for one that has no choice."""
    found: str | None = getattr(getattr(hf_model, "config", None), "_attn_implementation", None)
    return found


def keep_block_points(architecture: Any) -> None:
    """Leave a block the two points about it; to be given to TransformerLens as it wraps a model."""
    blocks = architecture.component_mapping.get("blocks")
    if blocks is None:
        return  # several stacks, or none: refused when it is read
    blocks.submodules.clear()
    blocks.hook_aliases = {"hook_resid_pre": "hook_in", "hook_resid_post": "hook_out"}


def known_architectures() -> dict[str, Any]:
    """The adapters of TransformerLens by the name of the class that they wrap."""
    known: dict[str, Any] = _factory()._adapters
    return known


def stop_exception() -> type[Exception]:
    """What TransformerLens raises to end a pass early."""
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    return StopAtLayerException


def block_class() -> Any:
    """The class of TransformerLens's bridged blocks."""
    from transformer_lens.model_bridge.generalized_components.block import BlockBridge

    return BlockBridge


@dataclass(frozen=True)
class PrivateName:
    """One name of another library.

    Args:
        library: the package that it belongs to.
        owner: a function that gives what has it; raises ImportError or AttributeError where that itself is gone.
        name: the name, looked for among the owner's attributes and in the code of its class.
        purpose: the purpose that lacscope reads it for.
        since: the first major version that has it; an earlier one has no need of it.
    """

    library: Library
    owner: Callable[[], Any]
    name: str
    purpose: str
    since: int = 0

    def is_there(self) -> bool:
        if self.since > int(version(self.library).split(".")[0]):
            return True
        try:
            owner = self.owner()
        except (ImportError, AttributeError):
            return False
        return hasattr(owner, self.name) or (isinstance(owner, type) and self.name in _names_in(owner))


def _names_in(owner: type) -> set[str]:
    """The attributes that a class's own code, and that of its bases, reads or writes."""
    functions = [value for kind in owner.__mro__ for value in vars(kind).values() if hasattr(value, "__code__")]
    return {name for function in functions for code in _nested(function.__code__) for name in code.co_names}


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _nested(inner)


def _bridge() -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge


def _factory() -> Any:
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

    return ArchitectureAdapterFactory


def _architecture() -> Any:
    from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter

    return ArchitectureAdapter


def _exceptions() -> Any:
    from transformer_lens.model_bridge import exceptions

    return exceptions


def _config() -> Any:
    from transformers import PretrainedConfig

    return PretrainedConfig


def _cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()


def _cache_layer() -> Any:
    from transformers.cache_utils import DynamicLayer

    return DynamicLayer()


def _sliding_layer() -> Any:
    from transformers.cache_utils import DynamicSlidingWindowLayer

    return DynamicSlidingWindowLayer(sliding_window=2)


NAMES = (
    PrivateName("torch", nn.Module, "_forward_hooks", "whose hooks stand on a point, and in which order"),
    PrivateName("torch", nn.Module, "_forward_pre_hooks", "whether a user's hook stands on a point"),
    PrivateName("torch", nn.Module, "_backward_hooks", "whether a user's hook stands on a point"),
    PrivateName("torch", nn.Module, "_backward_pre_hooks", "whether a user's hook stands on a module"),
    PrivateName("torch", nn.Module, "_modules", "putting a layer's own submodules in place of the bridged ones"),
    PrivateName("torch", lambda: Tensor, "_version", "whether a stream or a weight was edited in place"),
    PrivateName("torch", lambda: forward_ad, "_current_level", "leaving the forward-mode level that was entered"),
    PrivateName("transformer-lens", _bridge, "_hook_registry", "all hook points of a bridge"),
    PrivateName("transformer-lens", _bridge, "_start_at_layer_idx", "refusing a pass that starts at a layer", since=4),
    PrivateName("transformer-lens", _bridge, "_stop_at_layer_idx", "refusing a pass that stops at a layer"),
    PrivateName("transformer-lens", _exceptions, "StopAtLayerException", "refusing a pass that stops at a layer"),
    PrivateName("transformer-lens", block_class, "hook_aliases", "the names of a block's two residual points"),
    PrivateName("transformer-lens", _architecture, "component_mapping", "leaving the inside of a block unhooked"),
    PrivateName("transformer-lens", _factory, "_adapters", "which architectures TransformerLens can wrap"),
    PrivateName("transformers", _config, "_attn_implementation", "computing attention as the model would by itself"),
    PrivateName("transformers", _cache, "layers", "the keys and values that a plan keeps, layer by layer"),
    PrivateName("transformers", _cache, "layer_class_to_replicate", "an empty layer of the cache's own kind"),
    PrivateName("transformers", _cache_layer, "is_initialized", "emptying a copy of a cache's layer"),
    PrivateName("transformers", _sliding_layer, "cumulative_length", "emptying a copy of a cache's sliding layer"),
)


@functools.cache
def require_private(*libraries: Library) -> None:
    """Raise UnsupportedModelError where a name of these libraries that lacscope reads is gone. Looked for once."""
    gone = [entry for entry in NAMES if entry.library in libraries and not entry.is_there()]
    if gone:
        first = gone[0]
        raise UnsupportedModelError(
            f"{first.library} {version(first.library)} has no {', '.join(entry.name for entry in gone)} where lacscope "
            f"looks for it ({first.purpose}), so what it measured could be wrong in silence. lacscope is tested with "
            f"{first.library} {TESTED[first.library]}: install one of these, or a newer lacscope."
        )
