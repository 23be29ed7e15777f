"""Maps of one sample, states along y and its tokens along x: residual erasure, integrated gradients."""

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from lacscope.plots._looks import VERMILION
from lacscope.plots._style import (
    SMALL,
    caption,
    caption_below,
    fit_width,
    require_dims,
    require_names,
    take_ax,
    whole_numbers,
)
from lacscope.plots._token_labels import label_tokens

_ANSWER = VERMILION
_COORDS = ("sample", "token", "token_id", "token_text", "special", "valid", "answer")
_CAPTION_POINTS = 30.0
_ERASURE_MAKER = "lacscope.model_measures.residual_erasure(model, prompts, answers, mean_over=...)"
_GRADIENTS_MAKER = "lacscope.model_measures.integrated_gradients(model, prompts, answers)"


def plot_residual_erasure(erasure: xr.Dataset, sample: int | np.integer = 0, ax: Axes | None = None) -> Axes:
    """Change of the answer's probabilities by the state (y, 0 at the bottom) and token (x) that is erased.

    Args:
        erasure: the result of :func:`lacscope.model_measures.residual_erasure`.
        sample: the sample's value in the coordinate ``sample``.
        ax: Axes to draw on; default: a new figure, sized for the tokens and states.

    Returns:
        The Axes. The scale begins at 0 and ends at the map's largest effect. A line stands before the answer.

    Raises:
        ValueError: another Dataset, or a sample that it has not.

    >>> ax = plot_residual_erasure(residual_erasure(model, "2 + 3 = ", "5", mean_over=prompts))  # doctest: +SKIP
    """
    rows = sample_map(erasure, "effect", sample, _ERASURE_MAKER)
    values = rows["effect"].transpose("state", "token").values
    ax = draw_token_map(
        rows,
        values,
        ax,
        cmap="cividis",
        limits=(0.0, float(values.max()) or 1.0),
        colorbar="max over answer tokens of ||p - p~||\n(L2 distance of probabilities)",
        title=f"{erasure.attrs['model']}, sample {sample}: effect of erasing one token at one state",
        what="token erased",
    )
    caption_tokens(ax, erasure)
    return ax


def plot_integrated_gradients(gradients: xr.Dataset, sample: int | np.integer = 0, ax: Axes | None = None) -> Axes:
    """Integrated gradient of the answer's probability by state (y, 0 at the bottom) and token (x).

    Args:
        gradients: the result of :func:`lacscope.model_measures.integrated_gradients`.
        sample: the sample's value in the coordinate ``sample``.
        ax: Axes to draw on; default: a new figure, sized for the tokens and states.

    Returns:
        The Axes. The scale is symmetric about 0 and ends at the largest value but position 0's, as the authors have
        it; what goes beyond is drawn in the end colour, and the colour bar has a point there.

    Raises:
        ValueError: another Dataset, or a sample that it has not.

    >>> ax = plot_integrated_gradients(integrated_gradients(model, "2 + 3 = ", "5"))  # doctest: +SKIP
    """
    rows = sample_map(gradients, "attribution", sample, _GRADIENTS_MAKER)
    values = rows["attribution"].transpose(..., "token").values
    unit = rows.attrs.get("unit", "block")
    what = {"block": "", "attn": " along the attention's output", "mlp": " along the MLP's output"}[unit]
    end = float(np.abs(values[:, 1:]).max()) or 1.0
    ax = draw_token_map(
        rows,
        values,
        ax,
        cmap="PuOr",
        limits=(-end, end),
        colorbar="integrated gradient\n(probability; scale without position 0)",
        title=f"{gradients.attrs['model']}, sample {sample}: integrated gradients of the answer's probability{what}",
        what="token read",
    )
    caption_tokens(ax, gradients)
    return ax


def sample_map(result: xr.Dataset, name: str, sample: int | np.integer, maker: str) -> xr.Dataset:
    """The rows of one sample without its padding; ValueError where ``result`` is no map, or has no such sample."""
    require_names(result, (*_COORDS, name), "the result", maker)
    require_dims(result[name], ("sample", "layer" if "layer" in result[name].dims else "state", "token"), name, maker)
    held = list(result["sample"].values)
    if sample not in held:
        raise ValueError(f"the result has no sample {sample}; choose one of {', '.join(map(str, held))}.")
    one = result.isel(sample=held.index(sample))
    return one.isel(token=one["valid"].values)


def draw_token_map(
    rows: xr.Dataset,
    values: Float[np.ndarray, "state token"],
    ax: Axes | None,
    *,
    cmap: str,
    limits: tuple[float, float],
    colorbar: str,
    title: str,
    what: str,
) -> Axes:
    """Draw ``values`` on ``ax`` or a new figure, with the tokens' texts, the answer set off, and a colour bar."""
    n_states, n_tokens = values.shape
    size = float(np.clip(2.6 + 0.17 * n_tokens, 5.5, 20.0)), float(np.clip(3.0 + 0.09 * n_states, 3.8, 9.5))
    ax = take_ax(ax, size)
    image = ax.imshow(
        values, cmap=cmap, vmin=limits[0], vmax=limits[1], origin="lower", aspect="auto", interpolation="nearest"
    )
    ax.grid(False)
    ax.set_ylabel("layer" if "layer" in rows.dims else "state (l: what enters layer l)")
    ax.yaxis.set_major_locator(whole_numbers())
    _colorbar(ax, image, values, colorbar)
    first = n_tokens - int(rows["answer"].sum())
    ax.axvline(first - 0.5, color=_ANSWER, linewidth=2)
    ax.annotate(
        "answer",
        xy=(first - 0.5, 1.0),
        xycoords=ax.get_xaxis_transform(),
        xytext=(2, 3),
        textcoords="offset points",
        color=_ANSWER,
        fontsize=SMALL,
    )
    label_tokens(ax, rows, np.arange(n_tokens), what=what)
    ax.set_title(fit_width(ax, title), loc="left", pad=16, fontsize=SMALL, parse_math=False)
    return ax


def caption_tokens(ax: Axes, result: xr.Dataset) -> None:
    """The caption, below the longest of the tokens' labels."""
    longest = max((len(label.get_text()) * float(label.get_fontsize()) for label in ax.get_xticklabels()), default=0.0)
    caption_below(ax, caption(result), offset_points=_CAPTION_POINTS + 0.65 * longest)


def _colorbar(ax: Axes, image: AxesImage, values: Float[np.ndarray, "state token"], label: str) -> None:
    low, high = image.get_clim()
    beyond = (bool(np.nanmin(values) < low), bool(np.nanmax(values) > high))
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    ax.figure.colorbar(image, ax=ax, label=label, extend=extend)
