"""Models whose weights accelerate keeps elsewhere, and lends to the device that runs a module while it runs."""

from typing import Any

import torch


def running_device(module: Any, otherwise: torch.device) -> torch.device:
    """Where a model, or a module of it, runs whose weights are on ``meta``, that is on no device, between its calls.

    It is what accelerate wrote on the outermost module that it placed; else where the first weights with values are.
    """
    modules = getattr(module, "original_model", module).modules()
    for hook in (vars(module).get("_hf_hook") for module in modules):
        # accelerate keeps several hooks of one module together in one.
        for one in getattr(hook, "hooks", (hook,)):
            placed = getattr(one, "execution_device", None)
            if placed is not None and torch.device(placed).type != "meta":
                return torch.device(placed)
    return next((tensor.device for tensor in module.parameters() if tensor.device.type != "meta"), otherwise)
