"""Plots: computed data in, Axes out. They never show, save, or change matplotlib's settings. No torch.

``with lacscope.plots.style():`` gives figures lacscope's look; ``STYLE_FILE`` is the style file itself.
"""

from lacscope.plots._ablation import plot_ablation as plot_ablation
from lacscope.plots._ablation import plot_ablation_accuracy as plot_ablation_accuracy
from lacscope.plots._accuracy import plot_accuracy_by_alpha as plot_accuracy_by_alpha
from lacscope.plots._agreement import plot_agreement as plot_agreement
from lacscope.plots._alpha import plot_usage_by_alpha as plot_usage_by_alpha
from lacscope.plots._angular import plot_angular_distance as plot_angular_distance
from lacscope.plots._angular import plot_state_similarity as plot_state_similarity
from lacscope.plots._continuous import plot_continuous_by_alpha as plot_continuous_by_alpha
from lacscope.plots._contributions import plot_relative_contributions as plot_relative_contributions
from lacscope.plots._contributions import plot_residual_cosines as plot_residual_cosines
from lacscope.plots._controls import plot_controls as plot_controls
from lacscope.plots._depth_curse import plot_depth_curse as plot_depth_curse
from lacscope.plots._depth_score import plot_depth_scores as plot_depth_scores
from lacscope.plots._effective_depth import plot_effective_depths as plot_effective_depths
from lacscope.plots._group_effects import plot_effects_by_group as plot_effects_by_group
from lacscope.plots._groups import plot_usage_by_group as plot_usage_by_group
from lacscope.plots._importance import plot_importance as plot_importance
from lacscope.plots._layer_norms import plot_layer_norms as plot_layer_norms
from lacscope.plots._layer_phases import plot_usage_by_layer as plot_usage_by_layer
from lacscope.plots._linear_maps import plot_linear_maps as plot_linear_maps
from lacscope.plots._logit_lens import plot_logit_lens as plot_logit_lens
from lacscope.plots._norms import NormStyle as NormStyle
from lacscope.plots._norms import plot_norms as plot_norms
from lacscope.plots._painters import plot_painters_curves as plot_painters_curves
from lacscope.plots._phases import plot_phase_control as plot_phase_control
from lacscope.plots._plot import plot as plot
from lacscope.plots._pruning import plot_greedy as plot_greedy
from lacscope.plots._pruning import plot_sleb as plot_sleb
from lacscope.plots._skip_influence import plot_skip_influence as plot_skip_influence
from lacscope.plots._style import STYLE_FILE as STYLE_FILE
from lacscope.plots._style import style as style
from lacscope.plots._table import PUBLISHED as PUBLISHED
from lacscope.plots._table import PUBLISHED_SOURCE as PUBLISHED_SOURCE
from lacscope.plots._table import results_table as results_table
from lacscope.plots._table import to_markdown as to_markdown
from lacscope.plots._tell_tale import plot_norm_signals as plot_norm_signals
from lacscope.plots._tell_tale import plot_share_right as plot_share_right
from lacscope.plots._together import plot_together as plot_together
from lacscope.plots._token_groups import plot_token_phases as plot_token_phases
from lacscope.plots._token_groups import plot_token_usage as plot_token_usage
from lacscope.plots._token_maps import plot_integrated_gradients as plot_integrated_gradients
from lacscope.plots._token_maps import plot_residual_erasure as plot_residual_erasure
from lacscope.plots._tradeoff import plot_plan_tradeoff as plot_plan_tradeoff
from lacscope.plots._updates import plot_update_geometry as plot_update_geometry
from lacscope.plots._usage import plot_usage as plot_usage
from lacscope.plots._voidmap import plot_void_map as plot_void_map
