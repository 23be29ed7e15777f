"""The wrapped transformers model as it is without the bridge about it: what the bridge's own logits are held to."""

import copy
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from lacscope.models.adapters import _private as private

_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))


def reference_of(bridge: Any) -> tuple[Callable[..., Any] | None, str]:
    """A function from token ids to the bare model's logits; or None, and why there is none that could be trusted."""
    original = bridge.original_model
    if reason := why_not_alone(bridge, original.modules()):
        return None, reason
    twin = bare_twin(original)

    def logits(tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        found: Tensor = twin(input_ids=tokens, use_cache=False).logits
        return found

    return logits, ""


def why_not_alone(bridge: Any, modules: Iterable[nn.Module]) -> str:
    """Why the wrapped model alone would not give the bridge's numbers; "" where nothing speaks against it.

    ``modules`` are those to be looked at for what somebody put there.
    """
    if getattr(bridge, "compatibility_mode", False):
        return "the bridge's weights were processed (compatibility mode)"
    for module in modules:
        if hasattr(module, "_hf_hook"):
            return "accelerate moves the weights of this model about"
        hooks = [*private.forward_hooks(module).values(), *private.forward_pre_hooks(module).values()]
        if any(map(_is_foreign, hooks)):
            return "modules of the wrapped model carry hooks of their own"
    return ""


def _is_foreign(hook: Callable[..., Any]) -> bool:
    """True for a hook that neither TransformerLens nor lacscope put there.

    Nor transformers: once attention patterns were asked for, its hooks that collect them stay.
    """
    ours = ("transformer_lens.", "lacscope.", "transformers.utils.output_capturing")
    return not any(is_of(package, hook) for package in ours)


def is_of(package: str, function: Any) -> bool:
    """True for a function of a package; of a partial one, what it calls counts."""
    inner = getattr(function, "func", function)
    return str(getattr(inner, "__module__", "")).startswith(package)


def bare_twin(model: nn.Module, made: dict[int, nn.Module] | None = None) -> nn.Module:
    """The model's tree of modules, copied without any bridge component or hook in it; parameters are shared.

    ``made`` are twins that were made before, by the ids of their originals, and is filled with those that are made now.
    To be made once the model has run: some models (RWKV) change their weights in their first pass in evaluation mode,
    and remember it.
    """
    return _bare(model, {} if made is None else made)


def _bare(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    while (original := getattr(module, "original_component", None)) is not None:
        module = original
    if id(module) not in made:
        twin = made[id(module)] = copy.copy(module)
        for name in _HOOKS:
            vars(twin)[name] = OrderedDict()
        forward: Any = vars(twin).get("forward")
        if is_of("transformer_lens.", forward):
            del vars(twin)["forward"]  # the bridge's way through the layer, on the bridge's parts
        elif getattr(forward, "__self__", None) is module:
            vars(twin)["forward"] = types.MethodType(forward.__func__, twin)
        # A buffer that a pass puts in another's place (rotary frequencies of a longer prompt) is the twin's alone.
        vars(twin)["_buffers"] = dict(module._buffers)
        vars(twin)["_modules"] = {
            name: None if child is None else _bare(child, made) for name, child in private.children(module).items()
        }
    return made[id(module)]
