"""Results of one measure in one figure: several models, effects or prompts, a line each."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lacscope.guards._arguments import made_by
from lacscope.plots._bands import Spread, draw_spread, spread_of
from lacscope.plots._looks import LINE_LOOKS, LineLook
from lacscope.plots._style import caption_below, counted, label_layers, legend_above, require_dims, take_ax

_MAKER = "a measure by layer, such as block_influence(model, prompts) or layer_usage(trace).sel(phase='prefill'),"
_ALONG = ("layer", "state")


def plot_together(results: Mapping[str, xr.Dataset | xr.DataArray], variable: str = "", ax: Axes | None = None) -> Axes:
    """The same quantity of several results, a line with its band for each.

    Results with as many layers share an axis of layers. Where their depths differ, the axis is relative depth: layer
    l of L stands at (l + 1/2) / L, and the state after l of L layers at l / L.

    Args:
        results: two results or more by the label of their line: Datasets of one measure, or arrays over (layer).
        variable: the name of the variable that is drawn; default: the one that ranks the layers, or the only one.
        ax: Axes to draw on; default: a new figure.

    Returns:
        The Axes. Lines are means over samples, bands what the results hold of their spread.

    Raises:
        ValueError: fewer than two results, a variable that one of them lacks, or one that is not by layer.

    >>> from lacscope.testing import synthetic_trace
    >>> from lacscope.trace_analyses import layer_usage
    >>> usage = {f"{n} layers": layer_usage(synthetic_trace(n_layers=n)).sel(phase="prefill") for n in (4, 8)}
    >>> plot_together(usage).get_xlabel()
    'relative depth'
    """
    if not isinstance(results, Mapping) or len(results) < 2:
        raise ValueError("results must be two results or more by their labels, such as {'0.5B': one, '1.5B': another}.")
    chosen = {str(label): _chosen(str(label), result, variable) for label, result in results.items()}
    if len({along for _, _, along in chosen.values()}) > 1:
        raise ValueError("some results are by layer and some by state: give those of one measure.")
    panel = take_ax(ax, (6.4, 3.9))
    (along,) = {along for _, _, along in chosen.values()}
    relative = len({values.sizes[along] for values, _, _ in chosen.values()}) > 1
    handles = []
    for place, (label, (values, found, _)) in enumerate(chosen.items()):
        x = _depths(values.sizes[along], along) if relative else values[along].values
        handles.append(draw_spread(panel, x, found, _look(place), _counted(label, values, found)))
    first = next(iter(chosen.values()))[0]
    if relative:
        panel.set_xlabel("relative depth")
        panel.set_xlim(0, 1)
    else:
        label_layers(panel, first[along].values)
        panel.set_xlabel(along)
    words, units = str(first.attrs.get("long_name", first.name)), str(first.attrs.get("units", "1"))
    panel.set_ylabel(words if units == "1" else f"{words}\n({units})", parse_math=False)
    bands = {spread.ends_words for _, spread, _ in chosen.values() if spread.ends is not None}
    legend_above(panel, handles, f"bands: {', '.join(sorted(bands))}" if bands else "", ncols=2)
    caption_below(panel, _caption(results))
    return panel


def _chosen(label: str, result: xr.Dataset | xr.DataArray, variable: str) -> tuple[xr.DataArray, Spread, str]:
    made_by(f"results[{label!r}]", result, (xr.Dataset, xr.DataArray), _MAKER)
    if isinstance(result, xr.DataArray):
        held = xr.DataArray(result).to_dataset(name=result.name or "value")
        name = str(result.name or "value")
    else:
        held, name = result, variable or _ranking(label, result)
    if name not in held:
        raise ValueError(f"results[{label!r}] has no variable {name!r}; it has {', '.join(map(str, held.data_vars))}.")
    values = held[name]
    along = next((dim for dim in _ALONG if dim in values.dims), "layer")
    require_dims(values.isel(sample=0) if "sample" in values.dims else values, (along,), f"results[{label!r}]", _MAKER)
    return values, spread_of(held, name), along


def _ranking(label: str, result: xr.Dataset) -> str:
    if "importance" in result.attrs:
        return str(result.attrs["importance"])
    own = [
        str(name)
        for name, values in result.data_vars.items()
        if "spread_of" not in values.attrs and set(_ALONG) & set(values.dims)
    ]
    if len(own) != 1:
        raise ValueError(f"results[{label!r}] has {', '.join(own) or 'nothing by layer'}: say which with variable=.")
    return own[0]


def _depths(n: int, along: str) -> np.ndarray:
    return (np.arange(n) + 0.5) / n if along == "layer" else np.linspace(0, 1, n)


def _counted(label: str, values: xr.DataArray, found: Spread) -> str:
    """The label with its n, of samples or tokens, where the result says it."""
    n = found.n if "sample" in values.dims else int(np.max(values.coords["n"])) if "n" in values.coords else 0
    unit = "samples" if "sample" in values.dims or values.attrs.get("weight") == "sample" else "tokens"
    return f"{label} ({counted(n, unit)})" if n else label


def _look(place: int) -> LineLook:
    """Past the four looks, colours and markers meet anew: no two of sixteen lines look the same."""
    own, other = LINE_LOOKS[place % 4], LINE_LOOKS[(place + place // 4) % 4]
    return LineLook(own.color, other.linestyle, other.marker)


def _caption(results: Mapping[str, xr.Dataset | xr.DataArray]) -> str:
    """What the results rest on: what they share once, what differs by result."""
    keys = ("model", "quantization", "data", "effect", "alpha", "positions", "aggregation")
    shared: list[str] = []
    apart: list[str] = []
    for key in keys:
        said = {label: str(result.attrs.get(key, "")) for label, result in results.items()}
        if len(set(said.values())) == 1:
            shared += filter(None, set(said.values()))
        else:
            word, blank = ("weights", "not quantised") if key == "quantization" else (key, "not named")
            apart.append(f"{word}: " + ", ".join(f"{label} = {value or blank}" for label, value in said.items()))
    return "; ".join([*shared, *apart])
