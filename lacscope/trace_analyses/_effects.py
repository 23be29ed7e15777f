"""What an effect does to the next-token distribution: at the end of the prompt, and after every token."""

import numpy as np
import xarray as xr
from jaxtyping import Float

from lacscope.traces._schema import TraceError, made_from, validate


def next_token_shift(full: xr.Dataset, changed: xr.Dataset) -> xr.Dataset:
    """Compare the next-token distribution after each prompt with the full model's.

    Args:
        full: an ``observe`` trace made with ``logits="last"``.
        changed: a trace of the same samples under another effect, made with ``logits="last"``.

    Returns:
        Dataset over ``sample``: ``kl``, KL(full || changed) in nats (0 where equal), and ``same_token``, whether
        the most likely next token is the same.

    Raises:
        TraceError: logits are missing, or the traces are of different models, samples or prompts.
    """
    full, changed = _checked_pair(full, changed, ("sample", "vocab"), "last")
    p, q = _log_softmax(full["logits"].values), _log_softmax(changed["logits"].values)
    found = xr.Dataset(
        {"kl": ("sample", _kl(p, q)), "same_token": ("sample", p.argmax(-1) == q.argmax(-1))},
        coords={"sample": full["sample"].values},
    )
    found["kl"].attrs = {"long_name": "KL(full model || changed) of the next token", "units": "nat"}
    found.attrs = made_from(changed, "next_token_shift")
    return found


def token_shift(full: xr.Dataset, changed: xr.Dataset) -> xr.Dataset:
    """Compare the next-token distribution after each token with the full model's.

    Args:
        full: an ``observe`` trace made with ``logits="all"``.
        changed: a trace of the same samples and tokens under another effect, made with ``logits="all"``. Answers
            that the effect changes are other tokens: give both traces the same ``responses=``.

    Returns:
        Dataset over (sample, token): ``kl``, KL(full || changed) in nats after reading the token, and
        ``same_token``, 1 where the most likely next token is the same, else 0. NaN where the token is not valid.

    Raises:
        TraceError: logits are missing, or the traces are of different models, samples or tokens.
    """
    full, changed = _checked_pair(full, changed, ("sample", "token", "vocab"), "all")
    if _tokens(full) != _tokens(changed):
        raise TraceError("the two traces read different tokens: give both the same responses=, or no answer at all.")
    valid = full["valid"].values
    kl, same = np.full((2, *valid.shape), np.nan)
    for row, own in enumerate(valid):
        p, q = (_log_softmax(trace["logits"].values[row, own]) for trace in (full, changed))
        kl[row, own], same[row, own] = _kl(p, q), p.argmax(-1) == q.argmax(-1)
    found = xr.Dataset(
        {"kl": (("sample", "token"), kl), "same_token": (("sample", "token"), same)},
        coords={"sample": full["sample"].values, "token": full["token"].values},
    )
    found["kl"].attrs = {"long_name": "KL(full model || changed) of the next token", "units": "nat"}
    found["same_token"].attrs = {"long_name": "the most likely next token is the full model's", "units": "1"}
    found.attrs = made_from(changed, "token_shift")
    return found


def _checked_pair(
    full: xr.Dataset, changed: xr.Dataset, dims: tuple[str, ...], logits: str
) -> tuple[xr.Dataset, xr.Dataset]:
    full, changed = validate(full), validate(changed)
    for trace in (full, changed):
        if "logits" not in trace or trace["logits"].dims != dims:
            what = "last-position logits" if logits == "last" else "the logits of every position"
            raise TraceError(f"this compares {what}: make both traces with logits={logits!r}.")
    if list(full["sample"].values) != list(changed["sample"].values):
        raise TraceError("the two traces are of different samples.")
    if full.attrs["model"] != changed.attrs["model"]:
        raise TraceError(
            f"the two traces are of different models, {full.attrs['model']} and {changed.attrs['model']}: "
            "trace one model twice."
        )
    pairs = zip(full["sample"].values, _tokens(full, "prefill"), _tokens(changed, "prefill"), strict=True)
    differing = [sample for sample, one, other in pairs if one != other]
    if differing:
        raise TraceError(f"sample {differing[0]} has different prompts in the two traces: give both the same inputs.")
    return full, changed


def _tokens(trace: xr.Dataset, phase: str | None = None) -> list[list[int]]:
    """The tokens of each sample, or those of one phase, without padding."""
    counted = trace["valid"].values
    if phase is not None:
        counted = counted & (trace["phase"].values == phase)
    return [ids[own].tolist() for ids, own in zip(trace["token_id"].values, counted, strict=True)]


def _kl(p: Float[np.ndarray, "row vocab"], q: Float[np.ndarray, "row vocab"]) -> Float[np.ndarray, " row"]:
    """KL divergence of log-probabilities, in nats; not below 0, where rounding would put it."""
    return np.maximum((np.exp(p) * (p - q)).sum(-1), 0.0)


def _log_softmax(logits: Float[np.ndarray, "row vocab"]) -> Float[np.ndarray, "row vocab"]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
