"""The void map: which layers are voids for each token of one prompt and its answer."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Int
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.transforms import ScaledTranslation

from lacscope.guards._arguments import ANY, made_by, whole_number
from lacscope.plots._looks import ACTIVE, BOUNDARY, VOID
from lacscope.plots._style import POINTS_PER_INCH, SMALL, counted, legend_above, require_dims, take_ax, whole_numbers
from lacscope.plots._token_labels import label_tokens
from lacscope.traces._schema import PHASES, require_distinct_samples, rule_of, validate
from lacscope.traces._voids import resolve_voids


def plot_void_map(
    trace: xr.Dataset,
    voids: xr.DataArray | None = None,
    sample: int | np.integer | None = None,
    ax: Axes | None = None,
    *,
    tokens: slice | None = None,
) -> Axes:
    r"""The void map of one sample: its tokens along x, layers along y (0 at the bottom), active or void.

    Args:
        trace: a trace; the tokens' text, phase and sinks come from it.
        voids: mask (sample, layer, token) of voids, as from :func:`lacscope.voids`, or a bool one of your own; default:
            the trace's own.
        sample: the sample's value in the coordinate ``sample``; default: the first.
        ax: Axes to draw on; default: a new figure, sized for the tokens and layers.
        tokens: the tokens to show, as a slice of positions in the sample; default: all.

    Returns:
        The Axes; its x is the token's position. Spaces show as ``·``, newlines as ``\n``, characters that the
        font lacks as their escape; special tokens are bold, sinks carry a triangle, a line parts prefill and
        decode. Where there is no room for every token's text, some go unlabelled and the axis says so.

    Raises:
        TraceError: ``trace`` is not a trace.
        ValueError: no mask, or one with other dimensions, sizes or type; a sample that the trace has not; a
            slice with a step or without tokens.

    >>> from lacscope.testing import synthetic_trace
    >>> ax = plot_void_map(synthetic_trace(n_layers=12), tokens=slice(0, 10))
    >>> ax.get_images()[0].get_array().shape
    (12, 10)
    """
    trace = validate(trace)
    require_distinct_samples(trace)
    mask = _mask_of(trace, voids)
    sample = trace["sample"].values[0] if sample is None else sample
    index = _sample_index(trace, sample)
    shown = _positions(int(trace["valid"].values[index].sum()), tokens)
    rows = trace.isel(sample=index, token=shown)
    ax = take_ax(ax, _figure_size(len(shown), trace.sizes["layer"]))
    _draw_cells(ax, mask.isel(sample=index, token=shown).transpose("layer", "token"), shown)
    _mark_phases(ax, rows["phase"].values, shown)
    _mark_sinks(ax, shown[rows["sink"].values])
    label_tokens(ax, rows, shown)
    extent = "" if tokens is None else f", tokens {shown[0]} to {shown[-1]}"
    title = f"{trace.attrs['model']}, sample {sample}{extent}\n{_chosen_by(trace, mask)}"
    legend_above(ax, _legend_handles(), title, ncols=3, offset_points=26.0)
    return ax


def _mask_of(trace: xr.Dataset, voids: xr.DataArray | None) -> xr.DataArray:
    if "rule" in trace["token_id"].dims or (voids is None and "rule" in trace.dims):
        raise ValueError(
            f"the trace holds {trace.sizes['rule']} rules and a map shows one: give for instance trace.isel(rule=0)."
        )
    if voids is None and "void" not in trace:
        raise ValueError(
            "the trace was made without a rule, so it has no voids of its own: "
            "pass voids=lacscope.voids(trace, alpha=0.8)."
        )
    mask = resolve_voids(trace, voids)
    require_dims(mask, ("sample", "layer", "token"), "voids", "lacscope.voids(trace, alpha=0.8)")
    layers = trace["layer"].values
    if (np.diff(layers) != 1).any():
        raise ValueError(
            f"the trace holds layers {', '.join(map(str, layers))}: a map shows neighbouring ones, such as "
            "trace.isel(layer=slice(5, 10))."
        )
    return mask


def _sample_index(trace: xr.Dataset, sample: int | np.integer) -> int:
    held = trace["sample"].values.tolist()
    if whole_number("sample", sample, least=ANY) not in held:
        raise ValueError(f"the trace has no sample {sample}; choose one of {', '.join(map(str, held))}.")
    return held.index(int(sample))


def _positions(n_tokens: int, tokens: slice | None) -> Int[np.ndarray, " token"]:
    wanted = slice(None) if tokens is None else tokens
    made_by("tokens", wanted, slice, "slice(0, 40)")
    if wanted.step not in (None, 1):
        raise ValueError(f"tokens must be a slice without a step, got {wanted}: the map shows neighbouring tokens.")
    shown = np.arange(n_tokens)[wanted]
    if not shown.size:
        raise ValueError(f"{wanted} holds none of the sample's {n_tokens} tokens; choose within slice(0, {n_tokens}).")
    return shown


def _figure_size(n_tokens: int, n_layers: int) -> tuple[float, float]:
    return float(np.clip(1.6 + 0.17 * n_tokens, 5.0, 20.0)), float(np.clip(2.4 + 0.09 * n_layers, 3.2, 9.5))


def _draw_cells(ax: Axes, void: xr.DataArray, shown: Int[np.ndarray, " token"]) -> None:
    layers = void["layer"].values
    ax.imshow(
        void.values,
        cmap=ListedColormap([ACTIVE, VOID]),
        vmin=0,
        vmax=1,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(shown[0] - 0.5, shown[-1] + 0.5, layers[0] - 0.5, layers[-1] + 0.5),
    )
    ax.grid(False)
    ax.set_ylabel("layer")
    ax.yaxis.set_major_locator(whole_numbers())


def _mark_phases(ax: Axes, phase: np.ndarray, shown: Int[np.ndarray, " token"]) -> None:
    numbers = {name: int((phase == name).sum()) for name in PHASES}
    names = {name: f"{name} ({counted(n, 'tokens')})" for name, n in numbers.items() if n}
    if len(names) == 1:
        (name,) = names.values()
        _phase_name(ax, name, float(shown.mean()), "center")
        return
    boundary = shown[0] + numbers["prefill"] - 0.5
    outline = [withStroke(linewidth=4, foreground="white")]
    ax.axvline(boundary, color=BOUNDARY, linewidth=2, path_effects=outline)
    _phase_name(ax, names["prefill"], boundary, "right", gap=-6.0)
    _phase_name(ax, names["decode"], boundary, "left", gap=6.0)


def _phase_name(ax: Axes, text: str, position: float, side: str, *, gap: float = 0.0) -> None:
    ax.annotate(
        text,
        xy=(position, 1.0),
        xycoords=ax.get_xaxis_transform(),
        xytext=(gap, 12),
        textcoords="offset points",
        ha=side,
        color=BOUNDARY,
        fontsize=SMALL,
    )


def _mark_sinks(ax: Axes, sinks: Int[np.ndarray, " sink"]) -> None:
    above = ax.get_xaxis_transform() + ScaledTranslation(0, 5 / POINTS_PER_INCH, ax.figure.dpi_scale_trans)
    ax.plot(sinks, np.ones(len(sinks)), "v", color="black", markersize=5, transform=above, clip_on=False, label="sink")


def _legend_handles() -> Sequence[Artist]:
    return (
        Patch(facecolor=ACTIVE, edgecolor="black", label="active"),
        Patch(facecolor=VOID, edgecolor="black", label="void"),
        Line2D([], [], linestyle="none", marker="v", color="black", label="sink"),
    )


def _chosen_by(trace: xr.Dataset, mask: xr.DataArray) -> str:
    """Which rule or alpha the mask is of, as far as it says."""
    alpha = mask["alpha"].item() if "alpha" in mask.coords else mask.attrs.get("alpha")
    if alpha is not None:
        return f"voids at alpha = {alpha:g}"
    if "void" not in trace or not np.array_equal(mask.values, resolve_voids(trace, None).values):
        return "voids as given"
    rule = rule_of(trace)
    if not isinstance(rule, dict):
        return f"voids of {trace.attrs['rule']}, effect {trace.attrs['effect']}"
    options = ", ".join(f"{key}={value}" for key, value in sorted(rule.items()) if key not in ("name", "unit"))
    return f"voids of {rule['name']}({options}), effect {trace.attrs['effect']}"
