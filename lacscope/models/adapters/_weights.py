"""A model's weights as they are kept: quantised, offloaded, or plain."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lacscope.models.adapters._unsupported import UnsupportedModelError


def own_tensors(root: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Every parameter once, with the module that has it and its name there, in the order of ``parameters()``."""
    seen: set[int] = set()
    for module in root.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                yield module, name, parameter


def weight_buffers(root: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """The buffers that belong to the weights: those that are saved with them, and all of a packed linear map.

    Left out are what is made of the config (rotary frequencies, masks), and the zero biases that TransformerLens adds
    to heads.
    """
    seen: set[int] = set()
    for module in root.modules():
        for name, buffer in module._buffers.items():
            made = name in module._non_persistent_buffers_set and not _packed(module)
            if buffer is None or made or id(buffer) in seen:
                continue
            seen.add(id(buffer))
            if name == "bias" and isinstance(module, nn.Linear) and _is_added(module, buffer):
                continue
            yield module, name, buffer


def _is_added(module: nn.Module, bias: Tensor) -> bool:
    """True for a bias that is no weight of the model: zeros, or on no device while accelerate does not keep it."""
    if bias.device.type == "meta":
        return _offloaded(module, "bias") is None
    return not bool(bias.any())


def present(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """The tensor itself, fetched where accelerate keeps it while its module does not run.

    UnsupportedModelError where it is on no device and accelerate does not have it either.
    """
    if tensor.device.type != "meta":
        return tensor  # not detached: bitsandbytes' scales hang on the parameter itself
    kept = _offloaded(module, name)
    if kept is not None:
        return kept
    raise UnsupportedModelError(
        f"{type(module).__name__}.{name} is on the meta device, where no values are, and accelerate keeps it nowhere: "
        "load the model without offloading."
    )


def _offloaded(module: nn.Module, name: str) -> Tensor | None:
    """The tensor that accelerate keeps for the module while it does not run; None where it keeps none."""
    hook = vars(module).get("_hf_hook")
    for one in getattr(hook, "hooks", [hook]):
        weights = getattr(one, "weights_map", None)
        if weights is not None and name in weights:
            found: Tensor = weights[name]
            return found
    return None


def parts(module: nn.Module, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor | None]]:
    """All that a parameter or buffer is made of, as (what it is, tensor of plain numbers).

    A plain one is itself; a tensor subclass (torchao, quanto) is what it flattens to; bitsandbytes' has its scales
    beside it.
    """
    tensor = present(module, name, tensor)
    yield from _flat(tensor)
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        yield f"{state.quant_type} {state.blocksize} {tuple(state.shape)}", None
        yield from _quant_state(state)
    scales = int8_scales(module, name)
    if scales is not None:
        yield "scales", scales


def _flat(tensor: Tensor) -> Iterator[tuple[str, Tensor | None]]:
    if not is_subclass(tensor):
        yield f"{tensor.dtype} {tuple(tensor.shape)}", tensor.detach()
        return
    names, context = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    yield f"{type(tensor).__name__} {_said(context)}", None
    for name in names:
        yield from _flat(getattr(tensor, name))


def _said(context: Any) -> str:
    """What a subclass says of itself, without addresses in memory."""
    if isinstance(context, dict):
        return ", ".join(f"{key}={_said(value)}" for key, value in sorted(context.items()))
    if isinstance(context, list | tuple):
        return ", ".join(_said(one) for one in context)
    return str(context).partition(" at 0x")[0]


def is_subclass(tensor: Tensor) -> bool:
    """True for a tensor that keeps its numbers in other tensors."""
    return hasattr(tensor, "__tensor_flatten__") and type(tensor) not in (Tensor, nn.Parameter)


def _quant_state(state: Any) -> Iterator[tuple[str, Tensor | None]]:
    for name in ("absmax", "code", "offset"):
        if isinstance(part := getattr(state, name, None), Tensor):
            yield name, part.detach()
    if getattr(state, "state2", None) is not None:
        yield "state2", None
        yield from _quant_state(state.state2)


def int8_scales(module: nn.Module, name: str) -> Tensor | None:
    """The row scales of bitsandbytes' 8-bit weights: on the parameter, and from the first forward on in the state."""
    if name != "weight" or not hasattr(module, "state"):
        return None
    for holder in (module._parameters["weight"], module.state):
        if isinstance(scales := getattr(holder, "SCB", None), Tensor):
            return scales.detach()
    return None


def sizes(module: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear map that says them, whatever its weights are packed in."""
    own = vars(module)
    for inputs, outputs in (("in_features", "out_features"), ("infeatures", "outfeatures")):
        if isinstance(own.get(inputs), int) and isinstance(own.get(outputs), int):
            return own[inputs], own[outputs]
    return None


def layer_of(model: Any, layer: int) -> nn.Module:
    """A block as transformers has it, or HookedTransformer's own."""
    block: nn.Module = model.blocks[layer]
    return getattr(block, "original_component", block)


def multiplied(layer: nn.Module) -> dict[str, int] | None:
    """How many weights each of a layer's matrices has, by name; None where packed weights do not tell.

    A fused projection counts once: a bridge keeps its parts beside it, as copies. HookedTransformer keeps biases per
    head, [n_heads, d_head]: they multiply nothing.
    """
    found: dict[str, int] = {}
    seen: set[int] = set()
    for name, module in layer.named_modules():
        prefix = f"{name}.".removeprefix(".").replace("_original_component.", "")
        said = sizes(module)
        if said is not None and ("weight" in module._parameters or _packed(module)):
            found[f"{prefix}weight"] = said[0] * said[1]
            continue
        for key, parameter in module._parameters.items():
            if parameter is None or parameter.ndim < 2 or id(parameter) in seen or key.startswith("b_"):
                continue
            seen.add(id(parameter))
            if not (parameter.is_floating_point() or parameter.is_complex()):
                return None
            found[f"{prefix}{key}"] = parameter.numel()
        if _packed(module):
            return None
    return {name: n for name, n in found.items() if not _is_copy(name, found)}


def _packed(module: nn.Module) -> bool:
    """True for a module whose matrix is packed in buffers, as GPTQ's and AWQ's are."""
    return "weight" not in module._parameters and any(
        buffer is not None and buffer.ndim >= 2 and not buffer.is_floating_point() and buffer.dtype != torch.bool
        for buffer in module._buffers.values()
    )


def matrices(layer: nn.Module) -> dict[str, Tensor]:
    """A layer's matrices by name, dequantised; the same whether or not hook points stand between its modules.

    UnsupportedModelError for weights that cannot be read as numbers.
    """
    found: dict[str, Tensor] = {}
    for name, module in layer.named_modules():
        prefix = f"{name}.".removeprefix(".").replace("_original_component.", "")
        if _packed(module):
            raise UnsupportedModelError(
                f"{prefix}: the weights of a {type(module).__name__} are packed, and cannot be read as a matrix. Load "
                "the model before it was quantised."
            )
        for key, parameter in module._parameters.items():
            if parameter is None or key.startswith("b_"):
                continue
            matrix = dequantised(module, key, parameter)
            if matrix.ndim >= 2:
                found[f"{prefix}{key}"] = matrix
    return {name: matrix for name, matrix in found.items() if not _is_copy(name, found)}


def _is_copy(name: str, names: Any) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and parts[-2] in ("q", "k", "v") and ".".join([*parts[:-2], "qkv", parts[-1]]) in names


def dequantised(module: nn.Module, name: str, parameter: Tensor) -> Tensor:
    """A parameter as the numbers that it stands for; UnsupportedModelError where they cannot be had."""
    tensor = present(module, name, parameter)
    if getattr(tensor, "quant_state", None) is not None:
        return _four_bits(tensor)
    if is_subclass(tensor):
        if hasattr(tensor, "dequantize"):
            return tensor.dequantize()
    elif (scales := int8_scales(module, name)) is not None:
        return tensor.float() * scales.float().unsqueeze(-1) / 127
    elif (tensor.is_floating_point() and (tensor.dtype.itemsize > 1 or tensor.ndim < 2)) or tensor.ndim < 2:
        return tensor
    raise UnsupportedModelError(
        f"the weights of a {type(module).__name__} are kept as {tensor.dtype}, and cannot be read as a matrix. Load "
        "the model before it was quantised."
    )


def _four_bits(tensor: Tensor) -> Tensor:
    from bitsandbytes import functional

    packed, state = tensor.data, tensor.quant_state  # type: ignore[attr-defined]
    if getattr(state, "packing_format_for_cpu", False):
        packed, state = functional._convert_weight_packed_for_cpu_inverse(packed, copy.copy(state))
    return functional.dequantize_4bit(packed, state)


def keep_unpacked(root: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew, in place, at their first forward on some processors.

    Packed so, their scales are rounded, they have no gradient, and the weights are no longer those that were loaded.
    """
    for module in root.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.__dict__["support_avx512bf16_for_cpu"] = False


def in_subclasses(root: nn.Module) -> bool:
    """True where any parameter keeps its numbers in other tensors; inference mode refuses some of those."""
    return any(is_subclass(tensor) for _, _, tensor in own_tensors(root))


def quantised_as(module: nn.Module) -> str | None:
    """How a module's matrix is quantised, in a word or two; None where it is not."""
    weight: Any = module._parameters.get("weight")
    if weight is not None and getattr(weight, "quant_state", None) is not None:
        return f"bitsandbytes {weight.quant_state.quant_type}"
    if weight is not None and is_subclass(weight):
        package = type(weight).__module__.removeprefix("optimum.").partition(".")[0]
        return f"{package} {type(weight).__name__}"
    if weight is not None and int8_scales(module, "weight") is not None:
        return "bitsandbytes int8"
    if _packed(module) or (
        weight is not None and weight.ndim >= 2 and (weight.dtype.itemsize == 1 or not weight.is_floating_point())
    ):
        return type(module).__name__
    return None
