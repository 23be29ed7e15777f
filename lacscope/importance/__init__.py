"""How important each layer is, by every measure published for frozen models: one file a measure.

A ranking's attribute ``importance`` names the variable that ranks layers, larger = more important.
``state_similarity`` ranks none: it compares states.
"""

from lacscope.importance.ablation import causal_ablation as causal_ablation
from lacscope.importance.ablation_accuracy import ablation_accuracy as ablation_accuracy
from lacscope.importance.agreement import layer_agreement as layer_agreement
from lacscope.importance.agreement import layer_scores as layer_scores
from lacscope.importance.angular import CURSE_ANGULAR as CURSE_ANGULAR
from lacscope.importance.angular import GROMOV_ANGULAR as GROMOV_ANGULAR
from lacscope.importance.angular import angular_distance as angular_distance
from lacscope.importance.block_influence import SHORTGPT_BLOCK_INFLUENCE as SHORTGPT_BLOCK_INFLUENCE
from lacscope.importance.block_influence import block_influence as block_influence
from lacscope.importance.depth_curse import CURSE_IDENTITY as CURSE_IDENTITY
from lacscope.importance.depth_curse import CURSE_VARIANCE as CURSE_VARIANCE
from lacscope.importance.depth_curse import depth_variance as depth_variance
from lacscope.importance.depth_curse import identity_distance as identity_distance
from lacscope.importance.greedy import GREEDY_BY_TASK as GREEDY_BY_TASK
from lacscope.importance.greedy import greedy_by_task as greedy_by_task
from lacscope.importance.greedy import remove_greedily as remove_greedily
from lacscope.importance.greedy import task_scorer as task_scorer
from lacscope.importance.lim import DUMITRU_LIM as DUMITRU_LIM
from lacscope.importance.lim import lim as lim
from lacscope.importance.sleb import SLEB as SLEB
from lacscope.importance.sleb import sleb as sleb
from lacscope.importance.state_similarity import PAINTERS_SIMILARITY as PAINTERS_SIMILARITY
from lacscope.importance.state_similarity import state_similarity as state_similarity
from lacscope.importance.updates import YOO_UPDATES as YOO_UPDATES
from lacscope.importance.updates import update_geometry as update_geometry
from lacscope.importance.z_density import DUMITRU_ZD as DUMITRU_ZD
from lacscope.importance.z_density import z_density as z_density
