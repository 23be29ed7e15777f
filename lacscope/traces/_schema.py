"""The trace: one labelled ``xarray.Dataset`` per run, its schema, and its file. No torch here.

Every row belongs to the token being **read**; the token produced from it stands beside it in
``next_token_id``. Norms and ``void`` (1 at voids, else 0) are NaN where ``valid`` is False.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from einops import rearrange
from jaxtyping import Bool, Float, Int

from lacscope.traces._normalised import TOKEN_LABELS, normalised, with_plain_attributes
from lacscope.traces._provenance import installed_versions, now
from lacscope.traces._sealed import DamagedFileError, read_result, write_sealed

# 2: ``void`` is float32 and NaN on padding; 1: it was bool and False there. Files of 1 are still read.
SCHEMA_VERSION = 2
PHASES = ("prefill", "decode")
NORMS = ("resid_pre_norm", "resid_post_norm", "delta_norm", "update_norm")
LAYERWISE_MEASURES = ("attn_out_norm", "mlp_out_norm", "cos_pre_post", "threshold")
TOKENWISE_MEASURES = ("surprisal", "rank", "entropy")
EXTRA_MEASURES = LAYERWISE_MEASURES + TOKENWISE_MEASURES
SUBLAYER_DELTAS = ("attn_delta_norm", "mlp_delta_norm")
TOKEN_COORDS = tuple(TOKEN_LABELS)
PROVENANCE_ATTRS = (
    "model",
    "weights",
    "quantization",
    "dtype",
    "device",
    "weight_processing",
    "rule",
    "effect",
    "response",
    "max_new_tokens",
    "temperature",
    "top_p",
    "seed",
    "versions",
)
REQUIRED_ATTRS = ("lacscope_schema", "model", "rule", "effect", "n_layers", "versions")

LONG_NAMES = {
    "resid_pre_norm": "norm of the residual stream entering the layer",
    "resid_post_norm": "norm of the residual stream leaving the layer",
    "delta_norm": "signed change of norm over the layer (candidate)",
    "update_norm": "norm of the layer's update (candidate)",
    "attn_delta_norm": "signed change of norm over attention (candidate)",
    "mlp_delta_norm": "signed change of norm over the MLP (candidate)",
    "attn_out_norm": "norm of the attention output",
    "mlp_out_norm": "norm of the MLP output",
    "cos_pre_post": "cosine of the streams before and after the layer",
    "threshold": "threshold of the halting rule",
    "surprisal": "surprisal of the token read",
    "rank": "number of tokens with a higher logit than the token read",
    "entropy": "entropy of the next-token distribution",
    "void": "the layer is a void for the token",
    "attn_void": "the layer's attention is a void for the token",
    "mlp_void": "the layer's MLP is a void for the token",
}
UNITS_OF_MEASURE = {
    "cos_pre_post": "1",
    "surprisal": "nat",
    "rank": "1",
    "entropy": "nat",
    "void": "1",
    "attn_void": "1",
    "mlp_void": "1",
}

SINK_FACTOR = 10.0
SINK_MIN_TOKENS = 8


class TraceError(ValueError):
    """A trace or a trace file is not what the schema says; the message names what is wrong."""


@dataclass
class SampleTrace:
    """One sample's rows, in reading order and without padding: what :func:`build` assembles."""

    token_id: Int[np.ndarray, " token"]
    next_token_id: Int[np.ndarray, " token"]
    decode: Bool[np.ndarray, " token"]
    layerwise: dict[str, Float[np.ndarray, "layer token"]]
    void: Bool[np.ndarray, "*rule layer token"] | None = None
    tokenwise: dict[str, Float[np.ndarray, " token"]] = field(default_factory=dict)
    logits: Float[np.ndarray, "..."] | None = None

    def __len__(self) -> int:
        return len(self.token_id)


def find_sinks(resid_post_norm: Float[np.ndarray, "layer token"]) -> Bool[np.ndarray, " token"]:
    """Position 0, and each token whose norm exceeds 10x the sample's median at some layer 1..L-2.

    Position 0 alone where there are under 8 tokens: a median of so few says nothing.
    """
    n_layers, n_tokens = resid_post_norm.shape
    sink = np.zeros(n_tokens, dtype=bool)
    sink[:1] = True
    if n_tokens >= SINK_MIN_TOKENS and n_layers > 2:
        inner = resid_post_norm[1 : n_layers - 1]
        sink |= (inner > SINK_FACTOR * np.median(inner, axis=1, keepdims=True)).any(axis=0)
    return sink


def model_named(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """What a result made of a trace says of the model: its name, its weights, and what they are quantised to."""
    return {key: attrs[key] for key in ("model", "weights", "quantization") if key in attrs}


def made_from(
    trace: xr.Dataset, measure: str, mask: Mapping[str, Any] | None = None, **settings: Any
) -> dict[str, Any]:
    """What a result made of a trace says of itself.

    Args:
        trace: the trace.
        measure: the public name of the function that measured.
        mask: attributes of the mask of voids that was counted; its rule and alpha stand in the result.
        settings: the keyword arguments in force.

    Returns:
        ``measure``, ``settings`` (JSON), ``model``, ``quantization`` where the weights are quantised, ``versions``
        (JSON), ``time``, ``rule`` (JSON), ``effect``, and ``alpha`` where there is one.
    """
    told = {**trace.attrs, **(mask or {})}
    kept = {key: told[key] for key in ("rule", "effect", "alpha") if key in told}
    made = {"measure": measure, "settings": json.dumps(settings, sort_keys=True)}
    return {**made, **model_named(trace.attrs), "versions": trace.attrs["versions"], "time": now(), **kept}


def build(
    samples: Sequence[SampleTrace],
    attrs: Mapping[str, Any],
    *,
    sample_ids: Sequence[int] | None = None,
    token_text: Mapping[int, str] | None = None,
    special_ids: Sequence[int] = (),
    rules: Sequence[str] | None = None,
) -> xr.Dataset:
    """Assemble samples into one trace, right-padded to the longest.

    Args:
        samples: rows of each sample; all with the same measures.
        attrs: the record of what made the trace. Values that netCDF cannot hold (None, bool, dict, list) become JSON.
        sample_ids: coordinate ``sample``; 0, 1, ... by default.
        token_text: text of each token id; empty where missing.
        special_ids: ids of the tokenizer's special tokens.
        rules: coordinate ``rule`` where the voids have a leading rule dimension.
    """
    if not samples:
        raise TraceError("a trace needs at least one sample, got none.")
    text = token_text or {}
    n_tokens = max(len(sample) for sample in samples)

    def pad(rows: Sequence[np.ndarray], fill: Any) -> np.ndarray:
        dtype = np.result_type(rows[0]) if rows[0].dtype.kind != "U" else object
        out = np.full((len(rows), *rows[0].shape[:-1], n_tokens), fill, dtype=dtype)
        for index, row in enumerate(rows):
            out[index, ..., : row.shape[-1]] = row
        return out

    token_ids = pad([np.asarray(s.token_id, dtype=np.int64) for s in samples], -1)
    sinks = [find_sinks(s.layerwise["resid_post_norm"]) for s in samples]
    special = np.isin(token_ids, np.asarray(list(special_ids), dtype=np.int64))
    phases = [np.where(s.decode, PHASES[1], PHASES[0]) for s in samples]
    # netCDF strings end at a NUL: it is shown as its symbol.
    texts = np.array([[text.get(int(i), "").replace("\0", "\u2400") for i in row] for row in token_ids], dtype=object)
    by_token = ("sample", "token")
    coords: dict[str, Any] = {
        "sample": np.arange(len(samples)) if sample_ids is None else np.asarray(sample_ids),
        "layer": np.arange(samples[0].layerwise["resid_pre_norm"].shape[0]),
        "token": np.arange(n_tokens),
        "token_id": (by_token, token_ids),
        "token_text": (by_token, texts),
        "next_token_id": (by_token, pad([np.asarray(s.next_token_id, dtype=np.int64) for s in samples], -1)),
        "phase": (by_token, pad(phases, "")),
        "valid": (by_token, pad([np.ones(len(s), dtype=bool) for s in samples], False)),
        "sink": (by_token, pad(sinks, False)),
        "special": (by_token, special),
    }
    variables: dict[str, Any] = {}
    for name in samples[0].layerwise:
        rows = [s.layerwise[name].astype(np.float32, copy=False) for s in samples]
        variables[name] = (("sample", "layer", "token"), pad(rows, np.nan), _describe(name))
    for name in samples[0].tokenwise:
        rows = [s.tokenwise[name].astype(np.float32, copy=False) for s in samples]
        variables[name] = (by_token, pad(rows, np.nan), _describe(name))
    if samples[0].void is not None:
        void = pad([s.void.astype(np.float32) for s in samples if s.void is not None], np.nan)
        dims: tuple[str, ...] = ("sample", "layer", "token")
        if void.ndim == 4:
            void, dims = rearrange(void, "sample rule layer token -> rule sample layer token"), ("rule", *dims)
            coords["rule"] = np.array(list(rules or []), dtype=object)
        variables["void"] = (dims, void, {**_describe("void"), "comment": _VOID_COMMENT})
    if samples[0].logits is not None:
        rows = [np.asarray(s.logits, dtype=np.float32) for s in samples]
        if rows[0].ndim == 1:
            variables["logits"] = (("sample", "vocab"), np.stack(rows))
        else:
            padded = rearrange(pad([row.T for row in rows], np.nan), "sample vocab token -> sample token vocab")
            variables["logits"] = (("sample", "token", "vocab"), padded)
    trace = xr.Dataset(variables, coords)
    trace.attrs = {
        "lacscope_schema": SCHEMA_VERSION,
        "versions": json.dumps(installed_versions(), sort_keys=True),
        "time": now(),
        "n_layers": int(trace.sizes["layer"]),
        **{key: _attribute(value) for key, value in attrs.items()},
    }
    return validate(trace)


_VOID_COMMENT = (
    "1 at voids, 0 where active, missing (NaN) on padding. A plain array: its mean skips padding, but == and sum over "
    "layers do not. lacscope.recorded_voids(trace) has the same numbers as a mask that does."
)


def _describe(name: str) -> dict[str, str]:
    return {"long_name": LONG_NAMES.get(name, name), "units": UNITS_OF_MEASURE.get(name, "stream units")}


def _attribute(value: Any) -> str | int | float:
    """h5netcdf refuses None, bool and dict: those are written as JSON."""
    plain = value.item() if isinstance(value, np.generic) else value
    return plain if _is_attribute(plain) else json.dumps(plain, sort_keys=True)


def _is_attribute(value: Any) -> bool:
    return isinstance(value, (str, float)) or (isinstance(value, int) and not isinstance(value, bool))


def validate(trace: xr.Dataset) -> xr.Dataset:
    """Return the trace, or raise :class:`TraceError` naming everything that is wrong with it.

    A trace that xarray opened (``xr.open_dataset``), concatenated or cut is one too, where what it says is unambiguous:
    it is returned as lacscope makes traces. One sample (``trace.isel(sample=0)``) gets its dimension back. A slice of
    the layers is a trace as well; what needs the layers before or after them then says so.
    """
    if not isinstance(trace, xr.Dataset):
        raise TraceError(f"expected an xarray.Dataset made by lacscope.trace, got {type(trace).__name__}.")
    trace = with_plain_attributes(trace)
    _check_schema(trace)
    trace = normalised(trace)
    for dim in ("sample", "layer", "token"):
        if dim not in trace.sizes:
            raise TraceError(
                f"not a valid trace: dimension '{dim}' is missing. Select one {dim} in a list, as in "
                f"trace.isel({dim}=[0]), which keeps the dimension."
            )
    problems = [f"variable '{name}' is missing" for name in NORMS if name not in trace.data_vars]
    problems += [f"coordinate '{name}' is missing" for name in TOKEN_COORDS if name not in trace.coords]
    problems += [f"attribute '{name}' is missing" for name in REQUIRED_ATTRS if name not in trace.attrs]
    problems += [
        f"attribute '{name}' is a {type(value).__name__}: netCDF holds str, int and float, so write the rest as JSON"
        for name, value in trace.attrs.items()
        if not _is_attribute(value)
    ]
    for name in (*NORMS, *SUBLAYER_DELTAS, *LAYERWISE_MEASURES, "void"):
        if name in trace.data_vars and _dims(trace[name]) != ("sample", "layer", "token"):
            problems.append(f"'{name}' has dimensions {trace[name].dims}, not ('sample', 'layer', 'token')")
    for name in TOKEN_COORDS:
        if name in trace.coords and _dims(trace[name]) != ("sample", "token"):
            problems.append(f"'{name}' has dimensions {trace[name].dims}, not ('sample', 'token')")
    if not problems:
        problems += _inconsistencies(trace)
    if problems:
        raise TraceError(
            f"not a valid trace: {'; '.join(problems)}. Put traces together with lacscope.join_traces, and keep them "
            "with lacscope.save_trace and lacscope.open_trace: those know what a trace holds."
        )
    return trace


def _check_schema(trace: xr.Dataset) -> None:
    schema = trace.attrs.get("lacscope_schema")
    if schema is None:
        raise TraceError(
            "this is not a lacscope trace: attribute 'lacscope_schema' is missing. "
            "Traces are written by lacscope.save_trace or `lacscope trace`."
        )
    if not isinstance(schema, (int, np.integer)) or schema < 1:
        raise TraceError(f"attribute 'lacscope_schema' is {schema!r}, not a version number from 1 up.")
    if schema > SCHEMA_VERSION:
        raise TraceError(
            f"the trace has schema version {schema}; this lacscope reads up to version {SCHEMA_VERSION}. "
            "Upgrade with `pip install -U lacscope`."
        )


def require_first_layers(trace: xr.Dataset, purpose: str, *, all_of_them: bool = True) -> None:
    """Raise TraceError unless the trace has layer 0 and those after it without a gap: all, or up to some layer."""
    layers, n_layers = trace["layer"].values, trace.attrs["n_layers"]
    if np.array_equal(layers, np.arange(len(layers))) and (not all_of_them or len(layers) == n_layers):
        return
    held = ", ".join(map(str, layers[:4])) + (", ..." if len(layers) > 4 else "")
    raise TraceError(
        f"the trace holds {len(layers)} of {n_layers} layers ({held}), and {purpose}. Give the whole trace, and select "
        "layers of what comes out."
    )


def require_distinct_samples(trace: xr.Dataset | xr.DataArray) -> None:
    """Raise TraceError where two samples have one number, as after ``xr.concat`` of traces that each count from 0."""
    numbers = trace["sample"].values.tolist()
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise TraceError(
            f"two samples have the number {twice[0]}, so they cannot be told apart. Number them with "
            ".assign_coords(sample=range(n)), or trace them with sample_ids= and put them together with join_traces."
        )


def _dims(array: xr.DataArray) -> tuple[Any, ...]:
    return tuple(dim for dim in array.dims if dim != "rule")


def _inconsistencies(trace: xr.Dataset) -> list[str]:
    problems = []
    valid = trace["valid"].values
    if valid.dtype != bool:
        return [f"'valid' has dtype {valid.dtype}, not bool"]
    if (valid[..., 1:] & ~valid[..., :-1]).any():
        problems.append("'valid' has a gap: a trace is padded on the right only")
    phases = set(np.unique(trace["phase"].values[valid]))
    if phases - set(PHASES):
        problems.append(f"'phase' holds {sorted(phases - set(PHASES))}, not only {PHASES}")
    for name in NORMS:
        finite = np.isfinite(trace[name].values).all(axis=-2)
        if (finite != valid).any():
            problems.append(f"'{name}' must be finite exactly where 'valid' is True")
    if "void" in trace and not _is_void(trace["void"], trace["valid"]):
        problems.append("'void' must be 1 at voids, 0 where active, and NaN exactly where 'valid' is False")
    if any("\0" in text for text in trace["token_text"].values.flat):
        problems.append("'token_text' holds NUL characters, which end a netCDF string")
    n_layers, layers = trace.attrs["n_layers"], trace["layer"].values
    if not set(layers.tolist()) <= set(range(n_layers)) or ("layer" not in trace.coords and len(layers) != n_layers):
        problems.append(f"attribute 'n_layers' is {n_layers}, the layers are {_listed(layers)}")
    elif (np.diff(layers) <= 0).any():
        problems.append(f"the layers are {_listed(layers)}, not in rising order")
    problems += [f"attribute '{name}' is not JSON" for name in ("rule", "versions") if not _is_json(trace.attrs[name])]
    return problems


def _listed(layers: np.ndarray) -> str:
    return ", ".join(map(str, layers[:3])) + (f", ..., {layers[-1]}" if len(layers) > 3 else "")


def _is_void(void: xr.DataArray, valid: xr.DataArray) -> bool:
    """Whether it is 0 or 1 where the token is valid, else NaN."""
    values, known = void.values, valid.values[..., None, :]
    return void.dtype == np.float32 and bool(np.where(known, (values == 0) | (values == 1), np.isnan(values)).all())


def _is_json(text: Any) -> bool:
    try:
        json.loads(text)
    except (TypeError, ValueError):
        return False
    return True


def save_trace(trace: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a trace as netCDF (h5netcdf), checksummed, whole or not at all.

    The file is written under a temporary name beside ``path`` and renamed: a full disk or a kill leaves
    the old file as it was. Any netCDF reader opens it; :func:`open_trace` also checks it against the sha256
    at its end, so that not one flipped bit is read silently. Raises OSError with the path in the text where
    writing fails.
    """
    if isinstance(trace, xr.DataArray):
        raise TraceError(
            f"expected a trace, got the array {trace.name!r}: save it with .to_netcdf(path), and open it with "
            "xr.open_dataarray(path); a mask is then lacscope.VoidMask(opened)."
        )
    return write_sealed(validate(trace), path)


def open_trace(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a trace file into memory and check it. Needs no torch.

    A file that ``trace.to_netcdf(path)`` wrote is read too, though no checksum says that it is whole.

    Raises FileNotFoundError for a missing file and :class:`TraceError` for a foreign, damaged,
    truncated or newer one.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no trace file at {source}. `lacscope trace --out FILE` writes one.")
    try:
        return validate(read_result(source))
    except DamagedFileError as error:
        raise TraceError(str(error)) from error


def rule_of(trace: xr.Dataset) -> dict[str, Any] | list[dict[str, Any]] | None:
    """The rule that made the trace, as a dict with its class ``name`` and fields; None without one.

    A list of such dicts where the trace has a dimension ``rule``.
    """
    return json.loads(trace.attrs["rule"])


def cost_of(trace: xr.Dataset) -> dict[str, Any] | None:
    """FLOPs of the model's parts (see :class:`lacscope.models.ModelCost`), or None where unknown."""
    stored = trace.attrs.get("cost")
    return None if stored is None else json.loads(stored)
