"""Tokens as labels along the x axis of a map."""

import contextlib
from collections.abc import Callable

import numpy as np
import xarray as xr
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font

from lacscope.guards._withheld import is_withheld
from lacscope.plots._looks import SPECIAL_TOKEN
from lacscope.plots._style import POINTS_PER_INCH

_SMALLEST_LABEL, _LARGEST_LABEL = 5.0, 8.0
_LINE_HEIGHT = 1.25
_LONGEST_LABEL = 16


def label_tokens(ax: Axes, rows: xr.Dataset, shown: Int[np.ndarray, " token"], *, what: str = "token read") -> None:
    """Write each token's text below its position, special tokens bold; where there is no room, one in several.

    Args:
        ax: the axes, whose x is the position.
        rows: the tokens: ``token_text``, ``token_id`` and ``special``, each over (token). A token without a text
            shows its id, or its position where both are withheld.
        shown: their positions.
        what: the word for a token in the map, for the axis.
    """
    stride, points = _label_room(ax, len(shown))
    specials = rows["special"].values
    plain, bold = _glyph_test(FontProperties()), _glyph_test(FontProperties(weight="bold"))
    labels = [
        visible_text(str(text), bold if special else plain) if text else _nameless(int(token_id), int(position))
        for text, token_id, special, position in zip(
            rows["token_text"].values, rows["token_id"].values, specials, shown, strict=True
        )
    ]
    # Without these a pair of dollar signs is read as a formula.
    ax.set_xticks(shown[::stride], labels[::stride], rotation=90, fontsize=points, parse_math=False, usetex=False)
    for tick, special in zip(ax.get_xticklabels(), specials[::stride], strict=True):
        if special:
            tick.set(fontweight="bold", color=SPECIAL_TOKEN)
    thinned = "" if stride == 1 else f", one label in {stride}"
    withheld = "its position: texts withheld, " if is_withheld(rows) else ""
    ax.set_xlabel(f"{what} ({withheld}special tokens bold{thinned})")


def _nameless(token_id: int, position: int) -> str:
    """What stands for a token without a text: its id, or its position where that is withheld too."""
    return f"#{token_id}" if token_id >= 0 else str(position)


def _label_room(ax: Axes, n_tokens: int) -> tuple[int, float]:
    """Every how many tokens a label fits, and its size in points."""
    points_each = ax.bbox.width / ax.figure.dpi * POINTS_PER_INCH / n_tokens
    stride = max(1, int(np.ceil(_SMALLEST_LABEL * _LINE_HEIGHT / points_each)))
    return stride, float(np.clip(stride * points_each / _LINE_HEIGHT, _SMALLEST_LABEL, _LARGEST_LABEL))


def _glyph_test(font: FontProperties) -> Callable[[str], bool]:
    """Whether one of the files that ``font`` and matplotlib's settings stand for has a character."""
    files = []
    for family in font.get_family():
        one = font.copy()
        one.set_family(family)
        with contextlib.suppress(ValueError):  # not installed: matplotlib passes on to the next family too
            files.append(findfont(one, fallback_to_default=False))
    faces = [get_font(file) for file in files or [findfont(font)]]
    return lambda character: any(face.get_char_index(ord(character)) for face in faces)


def visible_text(text: str, has_glyph: Callable[[str], bool]) -> str:
    r"""A token's text as a label: spaces as ``·``, control and missing characters escaped, long text cut.

    >>> visible_text(" a\n", str.isascii)
    '·a\\n'
    >>> visible_text("\u4e2d", str.isascii)
    '\\u4e2d'
    """
    shown = "".join(_visible_character(character, has_glyph) for character in text)
    return shown if len(shown) <= _LONGEST_LABEL else shown[: _LONGEST_LABEL - 1] + "…"


def _visible_character(character: str, has_glyph: Callable[[str], bool]) -> str:
    if character == " ":
        return "·"
    if character != "\\" and character.isprintable() and has_glyph(character):
        return character
    return character.encode("unicode_escape").decode("ascii")
