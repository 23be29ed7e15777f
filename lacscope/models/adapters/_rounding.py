"""Equality of tensors that were computed in two ways."""

import torch
from torch import Tensor


def nearly_equal(a: Tensor, b: Tensor) -> bool:
    """Equal but for the rounding of the tensors' dtype, on whatever devices they are."""
    tolerance = torch.finfo(b.dtype).eps * 32
    a, b = a.float().to(b.device), b.float()
    return bool((a - b).abs().amax() <= tolerance * b.abs().amax())


def repeats(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit; on a GPU, whose kernels may add in another order from call to call, but for rounding."""
    return torch.equal(a, b) or (a.device.type != "cpu" and nearly_equal(a, b))
