"""Plots: computed data in, Axes out. They never show, save, or change matplotlib's settings. No torch.

``with lacscope.plots.style():`` gives figures lacscope's look; ``STYLE_FILE`` is the style file itself.
"""

from lacscope.plots.alpha import plot_usage_by_alpha as plot_usage_by_alpha
from lacscope.plots.norms import NormStyle as NormStyle
from lacscope.plots.norms import plot_norms as plot_norms
from lacscope.plots.style import STYLE_FILE as STYLE_FILE
from lacscope.plots.style import style as style
from lacscope.plots.usage import plot_usage as plot_usage
from lacscope.plots.voidmap import plot_void_map as plot_void_map
