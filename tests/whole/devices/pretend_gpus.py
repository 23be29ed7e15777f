"""Pretend GPUs on a machine without one: real values, and the errors and the waits of a real one.

A tensor "on" ``gpu:0`` or ``gpu:1`` holds a CPU tensor and says that it is elsewhere. Every operation is looked at:
tensors of two devices in one raise as CUDA does (single numbers on the CPU, and indices there, may be mixed in), and
what would make the CPU wait for a GPU is counted by the line that asked for it.

torch keeps one backend of this kind a process, for good: only ``worker.py``, a process of its own, imports this.
"""

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import lacscope

_setup_privateuseone_for_python_backend("gpu")

_PACKAGE = str(Path(lacscope.__file__).parent)
_CPU = torch.device("cpu")
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_COPIES = {"aten::copy_", "aten::_to_copy"}
# What a GPU must have finished before the CPU knows a value or a shape.
_WAITS = {
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::unique_dim",
    "aten::_unique2",
}


# What moves no number on the device.
_NO_KERNEL = {
    "aten::detach",
    "aten::_unsafe_view",
    "aten::_local_scalar_dense",
    "aten::lift_fresh",
    "aten::empty_like",
    "aten::new_empty",
    "aten::alias",
    "aten::_reshape_alias",
}


class MixedDevicesError(RuntimeError):
    """An operation whose tensors are on two devices."""


class NoFloat64Error(TypeError):
    """A float64 tensor on a device that has none, as Apple's."""


class PretendTensor(Tensor):
    """A tensor that says it is on a pretend GPU; its values are in ``on_cpu``."""

    on_cpu: Tensor
    machine: "PretendGPUs"

    @staticmethod
    def __new__(
        cls, on_cpu: Tensor, device: Any = None, machine: "PretendGPUs | None" = None, requires_grad: bool = False
    ) -> Any:
        if machine is None:
            # accelerate makes a weight that it lends, or takes back, by the class of the one before it.
            return nn.Parameter(on_cpu, requires_grad=False)
        made = Tensor._make_wrapper_subclass(
            cls, on_cpu.size(), strides=on_cpu.stride(), dtype=on_cpu.dtype, layout=on_cpu.layout, device=device
        )
        made.on_cpu, made.machine = on_cpu, machine
        return made

    def __repr__(self) -> str:
        return f"PretendTensor({self.on_cpu!r}, {self.device})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "PretendTensor":
        return PretendTensor(self.on_cpu.clone(), self.device, self.machine)

    def tolist(self) -> Any:
        self.machine.count_wait("tolist")
        return self.on_cpu.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        machine = next(one.machine for one in _tensors(args, kwargs) if isinstance(one, PretendTensor))
        return machine.run(func, args, kwargs or {})


class PretendGPUs(TorchDispatchMode):
    """Inside this context ``gpu:0`` and ``gpu:1`` are devices.

    ``waits`` and ``copies`` (from the CPU to a GPU) count by kind and by the line of lacscope, or else of whatever
    library, that asked; ``kernels`` counts the operations that a GPU would run. ``float64=False``: the GPUs have no
    such numbers.
    """

    def __init__(self, *, float64: bool = True) -> None:
        super().__init__()
        self.float64 = float64
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.kernels = 0

    def on(self, tensor: Tensor, device: str | torch.device) -> Tensor:
        """A tensor's values, said to be on a pretend GPU or really on the CPU."""
        plain = tensor.on_cpu if isinstance(tensor, PretendTensor) else tensor
        place = _place(device)
        return plain if place.type == "cpu" else PretendTensor(plain.detach().clone(), place, self)

    def put(self, module: nn.Module, device: str | torch.device) -> None:
        """Move a module's own parameters and buffers, not those of its children."""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(self.on(parameter.data, device), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = self.on(buffer, device)

    def count_wait(self, kind: str) -> None:
        self.waits[f"{kind} {_asking_line()}"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _is_made_of_others(func):
            with self:
                found = func.decompose(*args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One operation, on the CPU tensors that the given ones hold."""
        name = func._schema.name
        tensors = list(_tensors(args, kwargs))
        pretend = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
        if name not in _COPIES:
            self._check_places(name, args, tensors)
        if pretend:
            self._count(name, args)
            if not func.is_view and name not in _NO_KERNEL:
                self.kernels += 1
        asked = kwargs.get("device")
        home = self._home(name, args, asked, pretend)
        if asked is not None and _place(asked).type == "gpu":
            kwargs = {**kwargs, "device": _CPU}
        plain = {option: _each(_values, value) for option, value in kwargs.items()}
        found = func(*(_each(_values, value) for value in args), **plain)
        if name in _COPIES:
            source = args[1] if name == "aten::copy_" else args[0]
            self._count_copy(_place(source.device), home)
        if home.type == "cpu":
            return found
        given = {id(tensor.on_cpu): tensor for tensor in pretend}  # an operation in place returns what it was given
        return _each(lambda one: self._wrapped(one, home, given, name), found)

    def _wrapped(self, found: Any, home: torch.device, given: dict[int, PretendTensor], name: str) -> Any:
        if not isinstance(found, Tensor):
            return found
        if found.dtype == torch.float64 and not self.float64:
            raise NoFloat64Error(f"float64 on {home}, made by {name} at {_asking_line()}")
        return given[id(found)] if id(found) in given else PretendTensor(found, home, self)

    def _home(self, name: str, args: Any, asked: Any, pretend: list[PretendTensor]) -> torch.device:
        """Where the result is."""
        if asked is not None:
            return _place(asked)
        if name == "aten::copy_":
            return _place(args[0].device)
        # A single number of another device is read, not followed.
        with_shape = [tensor for tensor in pretend if tensor.dim()]
        return _place((with_shape or pretend)[0].device) if pretend else _CPU

    def _check_places(self, name: str, args: Any, tensors: list[Tensor]) -> None:
        indices = {id(index) for index in args[1] if isinstance(index, Tensor)} if name in _INDEXING else set()
        places = set()
        for tensor in tensors:
            on_cpu = tensor.device.type == "cpu"
            if not (on_cpu and (tensor.dim() == 0 or id(tensor) in indices)):
                places.add(str(_place(tensor.device)))
        if len(places) > 1:
            found = " and ".join(sorted(places))
            raise MixedDevicesError(f"{name} of tensors on {found} at {_asking_line()}")

    def _count(self, name: str, args: Any) -> None:
        if name in _WAITS:
            self.count_wait(name)
        if name in _INDEXING:
            indices = [index for index in args[1] if isinstance(index, Tensor)]
            if any(index.dtype == torch.bool for index in indices):
                self.count_wait(f"{name} by a mask")
            if any(index.device.type == "cpu" for index in indices):
                self.copies[f"index of the CPU {_asking_line()}"] += 1

    def _count_copy(self, source: torch.device, home: torch.device) -> None:
        if source.type == "gpu" and home.type == "cpu":
            self.count_wait("copy to the CPU")
        if source.type == "cpu" and home.type == "gpu":
            self.copies[f"copy to {home} {_asking_line()}"] += 1


@contextmanager
def pretending(machine: PretendGPUs) -> Iterator[None]:
    """The machine's GPUs, with what they need of torch beside their operations."""
    kernel = F.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        # torch asks a real device which of its kernels to take.
        given = (query, key, value, attn_mask)
        if not any(isinstance(tensor, PretendTensor) for tensor in given):
            return kernel(query, key, value, attn_mask=attn_mask, **options)
        machine._check_places("attention", (), [tensor for tensor in given if tensor is not None])
        q, k, v, mask = (_values(tensor) for tensor in given)
        return PretendTensor(kernel(q, k, v, attn_mask=mask, **options), _place(query.device), machine)

    F.scaled_dot_product_attention = attention
    # A tensor that wraps another cannot be sliced in inference mode; a real GPU's can.
    inference_mode, torch.inference_mode = torch.inference_mode, torch.no_grad
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="gpu") goes by way of the CPU
    try:
        with machine:
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        torch.inference_mode = inference_mode
        F.scaled_dot_product_attention = kernel


def _values(one: Any) -> Any:
    return one.on_cpu if isinstance(one, PretendTensor) else one


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """The same change of an argument, or of each in a list of them: no operation's are nested deeper."""
    return type(value)(map(change, value)) if type(value) in (list, tuple) else change(value)


def _tensors(args: Any, kwargs: Any) -> Iterator[Tensor]:
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Tensor):
            yield value
        elif type(value) in (list, tuple):
            yield from (one for one in value if isinstance(one, Tensor))


@functools.cache
def _is_made_of_others(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), torch._C.DispatchKey.CompositeImplicitAutograd)


@functools.lru_cache(64)
def _place(device: Any) -> torch.device:
    place = torch.device(device)
    return torch.device("gpu", 0) if place.type == "gpu" and place.index is None else place


def _asking_line() -> str:
    """The innermost line of lacscope that is running; else the innermost of a library."""
    library, frame = "", sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE):
            return f"{file[len(_PACKAGE) + 1 :]}:{frame.f_lineno}"
        if not library and "site-packages" in file and "/torch/" not in file:
            library = f"{file.partition('site-packages/')[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return library or "elsewhere"
