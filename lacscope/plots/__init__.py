"""Plots: computed data in, Axes out. They never show, save, or change matplotlib's settings. No torch.

``with lacscope.plots.style():`` gives figures lacscope's look; ``STYLE_FILE`` is the style file itself.
"""

from lacscope.plots.ablation import plot_ablation as plot_ablation
from lacscope.plots.ablation import plot_ablation_accuracy as plot_ablation_accuracy
from lacscope.plots.accuracy import plot_accuracy_by_alpha as plot_accuracy_by_alpha
from lacscope.plots.agreement import plot_agreement as plot_agreement
from lacscope.plots.alpha import plot_usage_by_alpha as plot_usage_by_alpha
from lacscope.plots.angular import plot_angular_distance as plot_angular_distance
from lacscope.plots.continuous import plot_continuous_by_alpha as plot_continuous_by_alpha
from lacscope.plots.contributions import plot_relative_contributions as plot_relative_contributions
from lacscope.plots.contributions import plot_residual_cosines as plot_residual_cosines
from lacscope.plots.controls import plot_controls as plot_controls
from lacscope.plots.depth_curse import plot_depth_curse as plot_depth_curse
from lacscope.plots.depth_score import plot_depth_scores as plot_depth_scores
from lacscope.plots.effective_depth import plot_effective_depths as plot_effective_depths
from lacscope.plots.erasure import plot_residual_erasure as plot_residual_erasure
from lacscope.plots.gradients import plot_integrated_gradients as plot_integrated_gradients
from lacscope.plots.group_effects import plot_effects_by_group as plot_effects_by_group
from lacscope.plots.groups import plot_usage_by_group as plot_usage_by_group
from lacscope.plots.importance import plot_importance as plot_importance
from lacscope.plots.layer_norms import plot_layer_norms as plot_layer_norms
from lacscope.plots.layer_phases import plot_usage_by_layer as plot_usage_by_layer
from lacscope.plots.linear_maps import plot_linear_maps as plot_linear_maps
from lacscope.plots.logit_lens import plot_logit_lens as plot_logit_lens
from lacscope.plots.norms import NormStyle as NormStyle
from lacscope.plots.norms import plot_norms as plot_norms
from lacscope.plots.painters import plot_painters_curves as plot_painters_curves
from lacscope.plots.phases import plot_phase_control as plot_phase_control
from lacscope.plots.pruning import plot_greedy as plot_greedy
from lacscope.plots.pruning import plot_sleb as plot_sleb
from lacscope.plots.skip_influence import plot_skip_influence as plot_skip_influence
from lacscope.plots.state_similarity import plot_state_similarity as plot_state_similarity
from lacscope.plots.style import STYLE_FILE as STYLE_FILE
from lacscope.plots.style import style as style
from lacscope.plots.table import PUBLISHED as PUBLISHED
from lacscope.plots.table import PUBLISHED_SOURCE as PUBLISHED_SOURCE
from lacscope.plots.table import results_table as results_table
from lacscope.plots.table import to_markdown as to_markdown
from lacscope.plots.tell_tale import plot_norm_signals as plot_norm_signals
from lacscope.plots.tell_tale import plot_share_right as plot_share_right
from lacscope.plots.tradeoff import plot_plan_tradeoff as plot_plan_tradeoff
from lacscope.plots.updates import plot_update_geometry as plot_update_geometry
from lacscope.plots.usage import plot_usage as plot_usage
from lacscope.plots.voidmap import plot_void_map as plot_void_map
