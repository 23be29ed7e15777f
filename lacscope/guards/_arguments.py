"""Whether an argument is what its function takes, checked where the call begins. No torch.

Each function returns the argument as a plain Python value, or raises ValueError naming it, what was given and what is
possible. True, 2.0 and "2" are not whole numbers, and NaN is no number.
"""

import difflib
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

ANY = -(2**63)
"""``least`` of whole numbers that may be negative, as layers counted from the end."""


def whole_number(name: str, value: Any, *, least: int = 0, most: int | None = None) -> int:
    """A whole number (int, or numpy's) from ``least`` to ``most``.

    >>> whole_number("batch_size", 8, least=1)
    8
    >>> whole_number("batch_size", 0, least=1)
    Traceback (most recent call last):
    ...
    ValueError: batch_size must be at least 1, got 0.
    >>> whole_number("batch_size", 2.5, least=1)
    Traceback (most recent call last):
    ...
    ValueError: batch_size must be a whole number, at least 1, got 2.5.
    """
    possible = f"{least} to {most}" if most is not None else "0 or more" if least == 0 else f"at least {least}"
    if not _is_whole(value):
        bound = "" if least == ANY else f", {possible}"
        raise ValueError(f"{name} must be a whole number{bound}, got {value!r:.80}.")
    number = int(value.__index__())
    if number < least or (most is not None and number > most):
        raise ValueError(f"{name} must be {possible}, got {number}.")
    return number


def whole_number_or_none(name: str, value: Any, *, least: int = 0) -> int | None:
    """As :func:`whole_number`, or None, which stands for no limit."""
    return None if value is None else whole_number(name, value, least=least)


def real_number(
    name: str,
    value: Any,
    *,
    least: float | int = -math.inf,
    above: float | int = -math.inf,
    most: float | int = math.inf,
) -> float:
    """A finite number (not a bool) from ``least``, or above ``above``, to ``most``.

    >>> real_number("share", 0.5, above=0, most=1)
    0.5
    >>> real_number("share", float("nan"), above=0, most=1)
    Traceback (most recent call last):
    ...
    ValueError: share must be a number above 0 and up to 1, got nan.
    """
    if not is_real(value) or not (float(value) >= least and float(value) > above and float(value) <= most):
        raise ValueError(f"{name} must be {_range(least, above, most)}, got {value!r:.80}.")
    return float(value)


def is_real(value: Any) -> bool:
    """Whether it is one finite number, and neither a bool nor a number written as text.

    >>> is_real(0.5), is_real(True), is_real("0.5"), is_real(float("nan"))
    (True, False, False, False)
    """
    if _is_bool(value) or isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def whole_numbers(name: str, values: Any, *, least: int = 0, distinct: bool = False) -> list[int]:
    """A list of whole numbers, each checked as by :func:`whole_number`; ``distinct`` ones do not repeat.

    >>> whole_numbers("sample_ids", [4, 2], distinct=True)
    [4, 2]
    >>> whole_numbers("sample_ids", [4, 4], distinct=True)
    Traceback (most recent call last):
    ...
    ValueError: sample_ids must differ from one another, got 4 twice.
    """
    numbers = [
        whole_number(f"{name}[{place}]", one, least=least)
        for place, one in enumerate(listed(name, values, "whole numbers"))
    ]
    if distinct and len(set(numbers)) < len(numbers):
        repeated = next(one for place, one in enumerate(numbers) if one in numbers[:place])
        raise ValueError(f"{name} must differ from one another, got {repeated} twice.")
    return numbers


def real_numbers(
    name: str, values: Any, *, least: float | int = -math.inf, most: float | int = math.inf
) -> list[float]:
    """A list of finite numbers, each checked as by :func:`real_number`."""
    return [
        real_number(f"{name}[{place}]", one, least=least, most=most)
        for place, one in enumerate(listed(name, values, "numbers"))
    ]


def listed(name: str, values: Any, what: str) -> list[Any]:
    """The members of a list, tuple, set, array or column; a str, a dict or a lone value is none of these."""
    if isinstance(values, (str, bytes, dict)) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:
        raise ValueError(f"{name} must be a list of {what}, got {values!r:.80}.")
    return list(values)


def text(name: str, value: Any) -> str:
    """A str, and nothing that could be written as one.

    >>> text("data", 3)
    Traceback (most recent call last):
    ...
    ValueError: data must be text, got 3.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {value!r:.80}.")
    return value


def made_by(name: str, value: Any, kind: type | tuple[type, ...], source: str) -> None:
    """Raise ValueError for an argument that is not of its kind; ``source`` is a call or a name that is.

    >>> made_by("groups", "x", dict, "groups_by_class(trace)")
    Traceback (most recent call last):
    ...
    ValueError: groups must be a dict, such as groups_by_class(trace); got 'x'.
    """
    if not isinstance(value, kind):
        kinds = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        given = f"a {type(value).__name__}" if hasattr(value, "dims") else f"{value!r:.80}"
        article = "an" if kinds[0] in "AEIOU" else "a"
        raise ValueError(f"{name} must be {article} {kinds}, such as {source}; got {given}.")


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that only counts as one of them."""
    if not _is_bool(value):
        raise ValueError(f"{name} must be True or False, got {value!r:.80}.")
    return bool(value)


def did_you_mean(given: object, known: Collection[str]) -> str:
    """A closing sentence that names the known word most like what was given; "" where none is.

    >>> did_you_mean("bypas", ["observe", "readout", "bypass"])
    " Did you mean 'bypass'?"
    """
    lower = {word.lower(): word for word in known}
    close = difflib.get_close_matches(str(given).lower(), lower, n=1, cutoff=0.6)
    return f" Did you mean {lower[close[0]]!r}?" if close else ""


def one_of(name: str, value: Any, known: Collection[str]) -> str:
    """One of the known words.

    >>> one_of("effect", "bypas", ("observe", "bypass"))
    Traceback (most recent call last):
    ...
    ValueError: unknown effect 'bypas'; choose one of 'observe', 'bypass'. Did you mean 'bypass'?
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(
            f"unknown {name} {value!r:.80}; choose one of {', '.join(map(repr, known))}.{did_you_mean(value, known)}"
        )
    return value


def hook_pairs(fwd_hooks: Any) -> list[tuple[Any, Callable[..., Any]]]:
    """Hooks as a list of (name or filter, function); a single pair is a list of one.

    >>> hook_pairs(("blocks.0.hook_resid_pre", print))
    [('blocks.0.hook_resid_pre', <built-in function print>)]
    """
    alone = isinstance(fwd_hooks, tuple) and len(fwd_hooks) == 2 and _names_points(fwd_hooks[0])
    pairs = [fwd_hooks] if alone else fwd_hooks
    if not isinstance(pairs, (list, tuple)):
        raise ValueError(f"fwd_hooks must be a list of (name or filter, function) pairs, got {fwd_hooks!r:.80}.")
    for pair in pairs:
        whole = isinstance(pair, (list, tuple)) and len(pair) == 2
        if not whole or not _names_points(pair[0]) or not callable(pair[1]):
            raise ValueError(f"fwd_hooks must be (name or filter, function) pairs; one is {pair!r:.80}.")
    return [(name, function) for name, function in pairs]


def _names_points(value: Any) -> bool:
    return isinstance(value, str) or callable(value)


def _range(least: float | int, above: float | int, most: float | int) -> str:
    if above > -math.inf:
        low = f"above {above:g}"
    elif least > -math.inf:
        low = f"of at least {least:g}"
    else:
        return "a finite number" if most == math.inf else f"a finite number of at most {most:g}"
    if most == math.inf:
        return f"a finite number {low}"
    return f"a number from {least:g} to {most:g}" if above == -math.inf else f"a number {low} and up to {most:g}"


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def _is_whole(value: Any) -> bool:
    if _is_bool(value) or not hasattr(value, "__index__"):
        return False
    try:
        value.__index__()
    except TypeError:  # an array of several, or of floats
        return False
    return True
