"""Every colour of the figures, and how phases, effects and lines look. ``lacscope.mplstyle`` has the rest of the style.

The colours are those of Okabe and Ito, which colour-blind readers tell apart; nothing is told by colour alone.
"""

from dataclasses import dataclass

BLUE, VERMILION, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
LIGHT_VERMILION, WINE, PLUM = "#FBDCC8", "#882255", "#8A2F6B"
MANY = (VERMILION, BLUE, GREEN, PINK, ORANGE, SKY, BLACK)  # for as many as seven kinds of points

# The void map, and what stands on it.
ACTIVE, VOID, BOUNDARY = "#0B4F82", "#F3E9CF", VERMILION
SPECIAL_TOKEN = PLUM
FULL_COLOR = "0.35"  # the full model, beside effects


@dataclass(frozen=True)
class PhaseLook:
    """How a phase is drawn; told apart by line, marker and hatch as well as by colour."""

    color: str
    tint: str
    linestyle: str
    marker: str
    hatch: str


LOOKS = {
    "prefill": PhaseLook(color=BLUE, tint=BLUE, linestyle="-", marker="o", hatch=""),
    "decode": PhaseLook(color=VERMILION, tint=LIGHT_VERMILION, linestyle="--", marker="s", hatch="////"),
}


@dataclass(frozen=True)
class EffectLook:
    """How an effect is drawn; dark against light, and another marker, so that it needs no colour."""

    color: str
    linestyle: str
    marker: str


EFFECT_LOOKS = {
    "readout": EffectLook(color=GREEN, linestyle="-", marker="^"),
    "bypass": EffectLook(color=WINE, linestyle="--", marker="v"),
}


@dataclass(frozen=True)
class LineLook:
    """How one of several lines is drawn; told apart by line and marker as well as by colour."""

    color: str
    linestyle: str
    marker: str


LINE_LOOKS = (
    LineLook(BLUE, "-", "o"),
    LineLook(VERMILION, "--", "s"),
    LineLook(BLACK, "-.", "^"),
    LineLook(GREEN, ":", "D"),
)
