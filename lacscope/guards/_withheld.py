"""The gate before everything that is written: a private benchmark's text passes it nowhere.

A token's id is its text to whoever has the tokenizer, and so are logits over the vocabulary: they go with it. What
stays are numbers, and names from closed lists (a token's class, a phase, a benchmark).
"""

import hashlib

import numpy as np
import xarray as xr

ATTRIBUTE = "text"
WITHHELD = "withheld"
_IDS = ("token_id", "next_token_id")
# Names over samples or tokens that quote nothing: whatever else is text there is taken for the benchmark's.
_NAMES = ("phase", "token_class", "group", "kind", "model", "prompt_sha256")


def without_text(result: xr.Dataset) -> xr.Dataset:
    """The result without what was read and written: texts are "", token ids -1, logits are left out.

    Its attribute ``text`` says ``"withheld"``.

    >>> from lacscope.testing import synthetic_trace
    >>> hidden = without_text(synthetic_trace())
    >>> set(hidden["token_text"].values.flat), set(hidden["token_id"].values.ravel().tolist()), hidden.attrs["text"]
    ({''}, {-1}, 'withheld')
    """
    hidden = result.drop_vars([name for name, variable in result.variables.items() if "vocab" in variable.dims])
    for name, variable in hidden.variables.items():
        if name in _IDS:
            hidden[name] = xr.full_like(hidden[name], -1)
        elif name not in _NAMES and variable.dtype.kind in "OSU" and {"sample", "token"} & set(variable.dims):
            hidden[name] = xr.full_like(hidden[name], "", dtype=object)
    return hidden.assign_attrs({ATTRIBUTE: WITHHELD})


def is_withheld(result: xr.Dataset) -> bool:
    """Whether the result's texts were left out."""
    return result.attrs.get(ATTRIBUTE) == WITHHELD


def fingerprint(text: str) -> str:
    """sha256 of a text that is not written: says which it was to whoever has it."""
    return hashlib.sha256(text.encode()).hexdigest()


def holds_text(result: xr.Dataset) -> bool:
    """Whether :func:`without_text` would take something away.

    >>> from lacscope.testing import synthetic_trace
    >>> holds_text(synthetic_trace()), holds_text(without_text(synthetic_trace()))
    (True, False)
    """
    hidden = without_text(result)
    if set(hidden.variables) != set(result.variables):
        return True
    return any(not np.array_equal(hidden[name].values, result[name].values) for name in _could_hide(result))


def _could_hide(result: xr.Dataset) -> list[str]:
    return [str(name) for name, v in result.variables.items() if name in _IDS or v.dtype.kind in "OSU"]
