"""A second module tree over the same weights: what is done to its modules leaves the user's model alone."""

import copy
from typing import Any

from torch import Tensor, nn


def shared_twin(hf_model: nn.Module) -> Any:
    """A copy of a model's modules, config and hooks that shares every parameter and buffer.

    Booting a bridge replaces submodules and sets the attention implementation; on the twin, neither reaches the model
    that it was made of. A change of the weights reaches both.
    """
    shared: dict[int, Any] = {}
    for module in hf_model.modules():
        for value in vars(module).values():
            _share(value, shared)
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                _share(tensor, shared)
        # accelerate's hooks hold the weights that they bring in, and are told the module at every call.
        if (hook := vars(module).get("_hf_hook")) is not None:
            shared[id(hook)] = hook
    return copy.deepcopy(hf_model, shared)


def _share(value: Any, shared: dict[int, Any]) -> None:
    """Tensors stay one, also those one step inside an object (bitsandbytes keeps its quantisation state so)."""
    found = [value]
    if hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)):
        found += list(vars(value).values())
    shared.update({id(one): one for one in found if isinstance(one, Tensor)})
