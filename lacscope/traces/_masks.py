"""A mask of voids whose plain means are right: what is padding counts neither as a void nor as active."""

import operator
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int

VOID, ACTIVE = "void", "active"
MASK_NAMES = {VOID: "the layer is a void for the token", ACTIVE: "the layer is active for the token"}
STREAM_KEY = "stream_key"


class VoidMask(xr.DataArray):
    """A mask of voids: 1 at voids, 0 where the layer is active, missing (NaN) where the token is not valid.

    A ``DataArray`` of float32, for which what is usually written with a mask skips padding, or raises:

    - ``~void`` and ``1 - void`` are the active pairs; ``(~void).mean()`` is usage, over any dimensions.
    - ``sum``, ``any`` and ``all`` are missing where all that they run over is (``void.sum("layer")`` of padding).
    - Comparisons, ``&``, ``|``, ``^`` and ``isin`` are masks again, missing where one of both is.
    - ``norm.where(void)`` and ``xr.where(void, a, b)`` give what is missing where the mask is missing.
    - ``astype(bool)`` raises TypeError while something is missing.
    - ``to_dataframe``, ``to_series`` and ``to_pandas`` leave padding out.

    Plain numpy knows nothing of this: ``void.values`` has NaN on padding (``np.nanmean`` is right), ``void.size``
    counts it. ``void.to_netcdf(path)`` saves a mask; what ``xr.open_dataarray(path)`` opens is plain: right again is
    ``VoidMask(opened)``.

    >>> valid = [[True, True], [True, False]]
    >>> void = VoidMask(xr.DataArray([[1, 0], [1, np.nan]], dims=("sample", "token")))
    >>> float((~void).mean()), void.count().item()
    (0.3333333333333333, 3)
    """

    __slots__ = ()

    @property
    def variable(self) -> xr.Variable:
        """The array without coordinates; as the condition of a ``where`` it knows what is missing."""
        found = super().variable
        if type(found.data) is np.ndarray and found.dtype.kind == "f":
            # Kept, so that attributes which are set through it stay.
            values = found.data.view(_Values)
            self._variable = xr.Variable(found.dims, values, found.attrs, found.encoding, fastpath=True)
        return self._variable

    # --- arithmetic that keeps what is missing ---------------------------------------------------------

    def __invert__(self) -> "VoidMask":
        found = self._wrapped(1 - plain_array(self))
        name = VOID if self.name == ACTIVE else ACTIVE
        return found.rename(name).assign_attrs({**self.attrs, "long_name": MASK_NAMES[name]})

    def __rsub__(self, other: Any) -> "VoidMask":
        return ~self if np.ndim(other) == 0 and other == 1 else super().__rsub__(other)

    def __eq__(self, other: Any) -> "VoidMask":  # type: ignore[override]
        return self._compared(operator.eq, other)

    def __ne__(self, other: Any) -> "VoidMask":  # type: ignore[override]
        return self._compared(operator.ne, other)

    def __lt__(self, other: Any) -> "VoidMask":  # type: ignore[override]
        return self._compared(operator.lt, other)

    def __le__(self, other: Any) -> "VoidMask":  # type: ignore[override]
        return self._compared(operator.le, other)

    def __gt__(self, other: Any) -> "VoidMask":  # type: ignore[override]
        return self._compared(operator.gt, other)

    def __ge__(self, other: Any) -> "VoidMask":  # type: ignore[override]
        return self._compared(operator.ge, other)

    def __and__(self, other: Any) -> "VoidMask":  # type: ignore[override]
        return self._joined(operator.and_, other)

    def __or__(self, other: Any) -> "VoidMask":  # type: ignore[override]
        return self._joined(operator.or_, other)

    def __xor__(self, other: Any) -> "VoidMask":  # type: ignore[override]
        return self._joined(operator.xor, other)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__
    __hash__ = None

    def isin(self, test_elements: Any) -> "VoidMask":
        """Which values are among those given, missing where the mask is."""
        return self._kept(plain_array(self).isin(test_elements))

    def where(self, cond: Any, *args: Any, **kwargs: Any) -> "VoidMask":
        """As of any DataArray; a mask as the condition is true at its ones."""
        return self._wrapped(super().where(_filled(cond), *args, **kwargs))

    def fillna(self, value: Any) -> "VoidMask":
        """The mask with padding counted as ``value``."""
        return self._wrapped(super().fillna(value))

    def astype(self, dtype: Any, **kwargs: Any) -> xr.DataArray:  # type: ignore[override]
        """The mask in another type; TypeError where that has no missing value and the mask has."""
        found = plain_array(self)
        if np.dtype(dtype).kind == "f":
            return self._wrapped(found.astype(dtype, **kwargs))
        if bool(found.isnull().any()):
            raise TypeError(
                f"padding is neither void nor active, so the mask cannot be {np.dtype(dtype)}: compute with the mask "
                "as it is (its means skip padding), or say what padding is, with fillna(0) first."
            )
        return found.astype(dtype, **kwargs)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "__call__" and ufunc in _OPERATORS:
            if len(inputs) == 2 and not isinstance(inputs[0], xr.DataArray):
                # An array asks its ufunc, which asks us: the mask's own operator ends that.
                return _OPERATORS[_TURNED.get(ufunc, ufunc)](*reversed(inputs))
            return _OPERATORS[ufunc](*inputs)
        return super().__array_ufunc__(ufunc, method, *inputs, **kwargs)

    # --- reductions --------------------------------------------------------------------------------------

    def reduce(self, func: Callable[..., Any], dim: Any = None, **kwargs: Any) -> "VoidMask":
        """As of any DataArray; what runs over padding alone stays missing."""
        name = getattr(func, "__name__", "")
        if name in ("array_any", "array_all"):
            return self._extreme("max" if name == "array_any" else "min", dim, kwargs)
        if name in ("sum", "prod", "mean"):
            kwargs["dtype"] = np.float64  # A sum of ones in float32 stops at 2^24.
        if name in ("sum", "prod") and kwargs.get("min_count") is None:
            kwargs["min_count"] = 1
        found = super().reduce(func, dim, **kwargs)
        return found.where(self.notnull()) if name in ("cumsum", "cumprod") else found

    def _extreme(self, name: str, dim: Any, kwargs: dict[str, Any]) -> "VoidMask":
        options = {key: value for key, value in kwargs.items() if key in ("axis", "keep_attrs", "keepdims")}
        return getattr(self, name)(dim, **options)

    def groupby(self, *args: Any, **kwargs: Any) -> Any:
        """Groups of the mask; what is padding alone stays missing."""
        return _Parts(super().groupby(*args, **kwargs))

    def groupby_bins(self, *args: Any, **kwargs: Any) -> Any:
        """Groups of the mask by bins; what is padding alone stays missing."""
        return _Parts(super().groupby_bins(*args, **kwargs))

    def coarsen(self, *args: Any, **kwargs: Any) -> Any:
        """Windows of the mask; what is padding alone stays missing."""
        return _Parts(super().coarsen(*args, **kwargs))

    def weighted(self, weights: xr.DataArray) -> Any:
        """The mask with weights; what is padding alone stays missing."""
        return _Weighted(self, super().weighted(weights))

    # --- tables ------------------------------------------------------------------------------------------

    def to_series(self) -> Any:
        """A pandas Series of the valid cells."""
        return plain_array(self).to_series().dropna()

    def to_dataframe(self, name: Hashable | None = None, dim_order: Any = None) -> Any:
        """A pandas DataFrame with a row for each valid cell."""
        found = plain_array(self).to_dataframe(name, dim_order)
        return found.dropna(subset=[self.name if name is None else name])

    def to_pandas(self) -> Any:
        """As of any DataArray, without the rows and columns that are all padding."""
        found: Any = plain_array(self).to_pandas()
        for axis in range(getattr(found, "ndim", 0)):
            found = found.dropna(axis=axis, how="all")
        return found

    # --- how it is done ----------------------------------------------------------------------------------

    def _wrapped(self, plain: xr.DataArray) -> "VoidMask":
        return type(self)(plain)

    def _kept(self, plain: xr.DataArray, *others: Any) -> "VoidMask":
        """What was found, as 0 and 1, but missing where this or another one is."""
        found = plain.astype(np.float32)
        for one in (self, *others):
            if isinstance(one, xr.DataArray):
                found = found.where(plain_array(one).notnull())
        return self._wrapped(found)

    def _compared(self, compare: Callable[[Any, Any], Any], other: Any) -> "VoidMask":
        return self._kept(compare(plain_array(self), _plain(other)), other)

    def _joined(self, join: Callable[[Any, Any], Any], other: Any) -> "VoidMask":
        return self._kept(join(_filled(self), _filled(other)), other)


class _Values(np.ndarray):
    """A mask's numbers: as a condition, what is missing gives what is missing."""

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        found = np.asarray(self).astype(dtype, *args, **kwargs)
        missing: Any = np.isnan(np.asarray(self)) if np.dtype(dtype) == bool and self.dtype.kind == "f" else np.False_
        if not missing.any():
            return found
        condition = found.view(_Condition)
        condition.missing = missing
        return condition

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        plain = [np.asarray(one) if isinstance(one, _Values) else one for one in args]
        if all(one is other for one, other in zip(plain, args, strict=True)):
            return super().__array_function__(func, types, args, kwargs)
        return func(*plain, **kwargs)


class _Condition(np.ndarray):
    """True, False and missing, for ``np.where`` alone."""

    missing: np.ndarray

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is not np.where or not isinstance(args[0], _Condition):
            return super().__array_function__(func, types, args, kwargs)
        found = np.where(np.asarray(args[0]), *args[1:], **kwargs)
        if found.dtype.kind in "biu":
            found = found.astype(np.float64)
        found[np.broadcast_to(args[0].missing, found.shape)] = np.nan
        return found


def plain_array(mask: xr.DataArray) -> xr.DataArray:
    """The same as a plain ``DataArray``; what ``xr.DataArray(mask)`` gives, which copies the text of every token."""
    return _shallow(xr.DataArray, mask)


def void_mask(void: xr.DataArray) -> VoidMask:
    """What ``VoidMask(void)`` gives, without copying its coordinates."""
    return _shallow(VoidMask, void)


def _shallow(kind: Any, array: xr.DataArray) -> Any:
    return kind(array.values, dims=array.dims, name=array.name, attrs=array.attrs).assign_coords(array.coords)


def _plain(value: Any) -> Any:
    return plain_array(value) if isinstance(value, VoidMask) else value


def _filled(value: Any) -> Any:
    """A mask as bool, False where it is missing; anything else as it is."""
    if not isinstance(value, VoidMask):
        return value
    plain = plain_array(value)
    if not bool((plain.isnull() | plain.isin((0, 1))).all()):
        raise TypeError("this is no mask of 0 and 1 any more, so it has no and, or and not: compare it first.")
    return plain == 1


_OPERATORS: dict[Any, Callable[..., Any]] = {
    np.invert: operator.invert,
    np.logical_not: operator.invert,
    np.bitwise_and: operator.and_,
    np.logical_and: operator.and_,
    np.bitwise_or: operator.or_,
    np.logical_or: operator.or_,
    np.bitwise_xor: operator.xor,
    np.logical_xor: operator.xor,
    np.equal: operator.eq,
    np.not_equal: operator.ne,
    np.less: operator.lt,
    np.less_equal: operator.le,
    np.greater: operator.gt,
    np.greater_equal: operator.ge,
}

_TURNED = {
    np.less: np.greater,
    np.less_equal: np.greater_equal,
    np.greater: np.less,
    np.greater_equal: np.less_equal,
}


class _Parts:
    """A mask's groups, windows or weights: sums, too, are missing where all that they run over is."""

    def __init__(self, parts: Any) -> None:
        self._parts = parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parts, {"any": "max", "all": "min"}.get(name, name))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, key: Any) -> Any:
        return self._parts[key]

    def sum(self, *args: Any, **kwargs: Any) -> VoidMask:
        return self._where_known("sum", args, kwargs)

    def prod(self, *args: Any, **kwargs: Any) -> VoidMask:
        return self._where_known("prod", args, kwargs)

    def _where_known(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> VoidMask:
        known = xr.DataArray(self._parts.max(*args, **{k: v for k, v in kwargs.items() if k == "dim"}))
        return VoidMask(getattr(self._parts, name)(*args, **kwargs)).where(known.notnull())


class _Weighted(_Parts):
    """The same with weights, which have no largest value."""

    def __init__(self, mask: VoidMask, weighted: Any) -> None:
        super().__init__(weighted)
        self._mask = mask

    def _where_known(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> VoidMask:
        dims = args[0] if args else kwargs.get("dim")
        return VoidMask(getattr(self._parts, name)(*args, **kwargs)).where(self._mask.count(dims) > 0)


def mask_of(void: xr.DataArray, valid: xr.DataArray) -> VoidMask:
    """A bool mask as it is handed out: missing where the token is not valid."""
    return void_mask(void.astype(np.float32).where(valid).transpose(*void.dims))


def flags_of(mask: xr.DataArray) -> xr.DataArray:
    """A mask of any form as plain bool, False where it is missing; TypeError where it is none."""
    plain = plain_array(mask)
    if plain.dtype == bool:
        return plain
    known = plain.notnull()
    void = plain == 1
    if plain.dtype.kind not in "fO" or not bool((void | (plain == 0) | ~known).all()):
        raise TypeError(f"a mask holds True and False, or 1, 0 and NaN; got {plain.dtype} of other values.")
    return void


def stream_key(delta_norm: xr.DataArray, valid: xr.DataArray) -> xr.DataArray:
    """A number for each token that tells its stream: made of the bits of its deltas at all layers, 0 where not valid.

    Masks carry it as a coordinate, so that one is known again as its trace's, whatever is selected of both. It has 52
    bits, and is still exact as the float that xarray makes of it where it puts masks together.
    """
    delta = delta_norm.transpose("layer", ...)
    bits = delta.values.astype(np.float32).view(np.uint32)
    total = np.zeros(bits.shape[1:], dtype=np.uint64)
    for layer, row in enumerate(bits):
        factor = pow(0x9E3779B97F4A7C15, 2 * layer + 1, 2**64)
        total += row * np.uint64(factor)
    key: Int[np.ndarray, "..."] = (total >> np.uint64(12)).astype(np.int64)
    dims = delta.dims[1:]
    kept: Bool[np.ndarray, "..."] = np.broadcast_to(valid.transpose(*[d for d in dims if d in valid.dims]), key.shape)
    return xr.DataArray(np.where(kept, key, 0), dims=dims)
