"""What an effect does to the next-token distribution at the end of the prompt."""

import numpy as np
import xarray as xr
from jaxtyping import Float

from lacscope.dataset import TraceError, validate


def next_token_shift(full: xr.Dataset, changed: xr.Dataset) -> xr.Dataset:
    """Compare the next-token distribution after each prompt with the full model's.

    Args:
        full: an ``observe`` trace made with ``logits="last"``.
        changed: a trace of the same samples under another effect, made with ``logits="last"``.

    Returns:
        Dataset over ``sample``: ``kl``, KL(full || changed) in nats (0 where equal), and ``same_token``, whether
        the most likely next token is the same.

    Raises:
        TraceError: logits are missing, or the traces are of different samples or prompts.
    """
    for trace in (full, changed):
        validate(trace)
        if "logits" not in trace or trace["logits"].dims != ("sample", "vocab"):
            raise TraceError("next_token_shift compares last-position logits: make both traces with logits='last'.")
    if list(full["sample"].values) != list(changed["sample"].values):
        raise TraceError("the two traces are of different samples.")
    p, q = _log_softmax(full["logits"].values), _log_softmax(changed["logits"].values)
    kl = np.maximum((np.exp(p) * (p - q)).sum(-1), 0.0)
    found = xr.Dataset(
        {"kl": ("sample", kl), "same_token": ("sample", p.argmax(-1) == q.argmax(-1))},
        coords={"sample": full["sample"].values},
    )
    found["kl"].attrs = {"long_name": "KL(full model || changed) of the next token", "units": "nat"}
    found.attrs = {key: changed.attrs[key] for key in ("model", "rule", "effect")}
    return found


def _log_softmax(logits: Float[np.ndarray, "sample vocab"]) -> Float[np.ndarray, "sample vocab"]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
