"""The Tell-Tale Norm: norms of decode steps above a layer's own threshold, as a signal that ranks responses.

Source: "The Tell-Tale Norm", arXiv 2606.06188, and the authors' ``rerank_adaptive.py``. The authors' late layers are
21 to 26 of 28; a norm there is that of the stream *leaving* the layer.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import xarray as xr
from jaxtyping import Float

from lacscope.guards._arguments import listed, made_by, one_of, real_number, whole_numbers
from lacscope.trace_analyses._usage import Sinks, counted_tokens, without_token_coords
from lacscope.traces._measure import Measure
from lacscope.traces._provenance import Preset, result_attrs
from lacscope.traces._schema import made_from, validate

SignalStream = Literal["resid_post_norm", "resid_pre_norm"]
Signal = Literal["norm_sum", "excess", "count_above", "late_excess"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)

TELL_TALE = Preset(
    "zhang_2026/tell_tale_norm",
    "The Tell-Tale Norm, arXiv 2606.06188, rerank_adaptive.py",
    {"stream": "resid_post_norm", "late_share": 0.3, "sinks": "include"},
    read_in="code",
)
_LONG_NAMES = {
    "norm_sum": "A: sum of the norms",
    "excess": "B: sum of the norms' excess over the threshold",
    "count_above": "C: tokens with a norm above the threshold",
    "late_excess": "D: excess in the last part of the response",
}


def norm_thresholds(
    calibration: xr.Dataset, *, stream: SignalStream = "resid_post_norm", sinks: Sinks = "include"
) -> xr.DataArray:
    """Threshold of each layer: Q3 + 1.5 (Q3 - Q1) of the norms of the decode tokens of all samples.

    Args:
        calibration: a trace with decode tokens.
        stream: the norm of the stream leaving the layer, as the authors take it, or entering it.
        sinks: whether sink tokens count.

    Returns:
        DataArray over ``layer``, in units of the stream; ``n`` is the number of tokens.

    Raises:
        TraceError: not a trace.
        ValueError: no decode token, or a stream that is none.

    >>> from lacscope.testing import synthetic_trace
    >>> norm_thresholds(synthetic_trace(n_layers=12)).sizes["layer"]
    12
    """
    norms = _decode_norms(calibration, stream, sinks)
    n = int(norms.isel(layer=0).notnull().sum())
    if n == 0:
        raise ValueError("the calibration trace has no decode token: give max_new_tokens= or responses= to trace.")
    low, high = (norms.quantile(q, dim=("sample", "token")).drop_vars("quantile") for q in (0.25, 0.75))
    found = (high + 1.5 * (high - low)).rename("threshold").assign_coords(n=n)
    found.attrs = {
        "long_name": "threshold: Q3 + 1.5 (Q3 - Q1) of the decode norms",
        "units": "stream units",
        **made_from(calibration, "norm_thresholds", stream=stream, sinks=sinks),
        "stream": stream,
        "sinks": sinks,
    }
    return found


def norm_signals(
    trace: xr.Dataset,
    thresholds: xr.DataArray,
    *,
    stream: SignalStream = "resid_post_norm",
    late_share: float | int = 0.3,
    sinks: Sinks = "include",
    data: str = "",
) -> xr.Dataset:
    """The four signals of each response, per layer.

    Args:
        trace: a trace with decode tokens, one sample a response.
        thresholds: the thresholds over ``layer``, from :func:`norm_thresholds` of a calibration trace of the same
            model. Of numbers of your own, without attributes, the layers alone are compared.
        stream: the stream, as for the thresholds.
        late_share: the last part of a response that ``late_excess`` runs over; of n decode tokens, those from
            ``int((1 - late_share) * n)`` on, as in the authors' code.
        sinks: whether sink tokens count; as for the thresholds.
        data: the name of the prompts, for the figure.

    Returns:
        Dataset over (sample, layer), in units of the stream unless said: ``norm_sum`` (A), ``excess`` (B: sum of
        (norm - threshold)_+), ``count_above`` (C: tokens), ``late_excess`` (D); over sample ``n_decode``; over layer
        ``threshold``. A response without a decode token that counts has signals of NaN.

    Drawn by :func:`lacscope.plots.plot_norm_signals`.

    Raises:
        TraceError: not a trace.
        ValueError: thresholds of other layers, another model, stream or treatment of sinks, or a ``late_share``
            outside (0, 1].

    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace()
    >>> norm_signals(trace, norm_thresholds(trace))["excess"].dims
    ('sample', 'layer')
    """
    real_number("late_share", late_share, above=0, most=1)
    made_by("thresholds", thresholds, xr.DataArray, "norm_thresholds(calibration)")
    trace = validate(trace)
    norms = _decode_norms(trace, stream, sinks)
    if thresholds.dims != ("layer",) or not np.array_equal(thresholds["layer"], norms["layer"]):
        raise ValueError(
            f"thresholds have dimensions {thresholds.dims} and {thresholds.size} values; the trace has "
            f"{norms.sizes['layer']} layers. Give what norm_thresholds returns for the same model."
        )
    for name, own in (("model", trace.attrs["model"]), ("stream", stream), ("sinks", sinks)):
        theirs = thresholds.attrs.get(name, own)
        if theirs != own:
            raise ValueError(f"the thresholds are of {name} {theirs!r}, the signals of {own!r}: take one for both.")
    counts = norms.isel(layer=0, drop=True).notnull().transpose("sample", "token")
    place = counts.cumsum("token") - 1
    n_decode = counts.sum("token")
    late = counts & (place >= ((1 - late_share) * n_decode).astype(int))
    limits = thresholds.drop_vars("n", errors="ignore")
    excess = (norms - limits).clip(min=0)
    found = {
        "norm_sum": norms.sum("token"),
        "excess": excess.sum("token"),
        "count_above": (norms > limits).sum("token"),
        "late_excess": excess.where(late).sum("token"),
    }
    ds = xr.Dataset({name: values.where(n_decode > 0).transpose("sample", "layer") for name, values in found.items()})
    for name in SIGNALS:
        units = "tokens" if name == "count_above" else "stream units"
        ds[name].attrs = {"long_name": _LONG_NAMES[name], "units": units}
    ds["n_decode"] = n_decode.assign_attrs(long_name="decode tokens of the response", units="tokens")
    ds["threshold"] = limits
    ds.attrs = result_attrs(
        "norm_signals",
        made_from(trace, "norm_signals"),
        preset=TELL_TALE,
        settings={"stream": stream, "late_share": late_share, "sinks": sinks},
        positions="decode tokens" if sinks == "include" else "decode tokens that are no sinks",
        aggregation="sums over each response, per layer",
        n_samples=trace.sizes["sample"],
        data=data,
    )
    return ds


def late_layers(n_layers: int) -> tuple[int, ...]:
    """The last quarter of the layers but for the very last: of 28 layers the authors' 21 to 26.

    Raises ValueError for a model of fewer than two layers.

    >>> late_layers(28), late_layers(30)[:2]
    ((21, 22, 23, 24, 25, 26), (22, 23))
    """
    if n_layers < 2:
        raise ValueError(f"a model of {n_layers} layers has no late ones.")
    return tuple(range(min(3 * n_layers // 4, n_layers - 2), n_layers - 1))


def rank_candidates(
    signals: xr.Dataset,
    signal: Signal = "excess",
    *,
    layers: Literal["late", "all"] | Sequence[int] = "late",
    questions: Sequence[object] | None = None,
) -> xr.Dataset:
    """Rank candidate responses by one signal, summed over layers: the largest is first, a response without one last.

    Args:
        signals: the result of :func:`norm_signals`, one sample a candidate.
        signal: ``"norm_sum"`` (A), ``"excess"`` (B), ``"count_above"`` (C) or ``"late_excess"`` (D).
        layers: the layers summed over; ``"late"`` as :func:`late_layers`.
        questions: the question that each sample answers; candidates are ranked within their question. Default: all
            answer the same.

    Returns:
        Dataset over sample: ``score`` (in units of the signal; NaN where the signal is) and ``rank`` (1 is the best;
        equals share their mean, so do those at the end without a score).

    Raises:
        ValueError: an unknown signal, a layer that the signals lack, or ``questions`` of another length.

    >>> from lacscope.testing import synthetic_trace
    >>> trace = synthetic_trace(n_samples=3)
    >>> found = rank_candidates(norm_signals(trace, norm_thresholds(trace)), "norm_sum", layers="all")
    >>> sorted(found["rank"].values.tolist())
    [1.0, 2.0, 3.0]
    """
    one_of("signal", signal, SIGNALS)
    made_by("signals", signals, xr.Dataset, "norm_signals(trace, thresholds)")
    held = signals["layer"].values.tolist()
    if isinstance(layers, str):
        chosen = list({"late": late_layers(len(held)), "all": held}[one_of("layers", layers, ("late", "all"))])
    else:
        chosen = whole_numbers("layers", layers)
    missing = [layer for layer in chosen if layer not in held]
    if missing or not chosen:
        raise ValueError(f"layers={layers}: the signals have layers {held[0]} to {held[-1]}; choose among those.")
    n_samples = signals.sizes["sample"]
    names = (
        ["" for _ in range(n_samples)]
        if questions is None
        else [str(name) for name in listed("questions", questions, "names")]
    )
    if len(names) != n_samples:
        raise ValueError(f"questions names {len(names)} of {n_samples} samples.")
    score = signals[signal].sel(layer=chosen).sum("layer", skipna=False, keep_attrs=True)
    ranked = score.fillna(-np.inf).values
    rank = np.empty(n_samples)
    for name in dict.fromkeys(names):
        members = [i for i, other in enumerate(names) if other == name]
        rank[members] = _ranks(-ranked[members].astype(np.float64))
    ds = xr.Dataset({"score": score, "rank": ("sample", rank, {"long_name": "rank, 1 is the largest", "units": "1"})})
    ds.attrs = {**signals.attrs, "measure": "rank_candidates", "signal": signal, "layers": ", ".join(map(str, chosen))}
    return ds


def _ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    below = (values[None, :] < values[:, None]).sum(1)
    equal = (values[None, :] == values[:, None]).sum(1)
    return below + (equal + 1) / 2


def _decode_norms(trace: xr.Dataset, stream: str, sinks: Sinks) -> xr.DataArray:
    """Norms in float64, NaN where a token is not read in decode."""
    trace = validate(trace)
    if stream not in get_args(SignalStream):
        raise ValueError(f"stream must be 'resid_post_norm' or 'resid_pre_norm', got {stream!r}.")
    counted = counted_tokens(trace, sinks) & (trace["phase"] == "decode")
    return without_token_coords(trace[stream].astype(np.float64).where(counted))


NORM_SIGNALS = Measure(
    norm_signals,
    "norm signals",
    "norms of each response above what is usual, by layer",
    plot="plot_norm_signals",
    needs="trace",
    group="tokens",
)
