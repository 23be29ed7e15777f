"""The old name of ``lacscope.model_measures``, until 1.0."""

import sys

from lacscope.model_measures import CURSE_ANGULAR as CURSE_ANGULAR
from lacscope.model_measures import CURSE_IDENTITY as CURSE_IDENTITY
from lacscope.model_measures import CURSE_VARIANCE as CURSE_VARIANCE
from lacscope.model_measures import DUMITRU_LIM as DUMITRU_LIM
from lacscope.model_measures import DUMITRU_ZD as DUMITRU_ZD
from lacscope.model_measures import GREEDY_BY_TASK as GREEDY_BY_TASK
from lacscope.model_measures import GROMOV_ANGULAR as GROMOV_ANGULAR
from lacscope.model_measures import PAINTERS_SIMILARITY as PAINTERS_SIMILARITY
from lacscope.model_measures import SHORTGPT_BLOCK_INFLUENCE as SHORTGPT_BLOCK_INFLUENCE
from lacscope.model_measures import SLEB as SLEB
from lacscope.model_measures import YOO_UPDATES as YOO_UPDATES
from lacscope.model_measures import (
    _ablation,
    _ablation_accuracy,
    _agreement,
    _angles,
    _angular,
    _block_influence,
    _bypassed,
    _depth_curse,
    _greedy,
    _jacobian_probes,
    _last_state,
    _lim,
    _results,
    _sleb,
    _state_similarity,
    _tokenwise,
    _updates,
    _z_density,
)
from lacscope.model_measures import ablation_accuracy as ablation_accuracy
from lacscope.model_measures import angular_distance as angular_distance
from lacscope.model_measures import block_influence as block_influence
from lacscope.model_measures import causal_ablation as causal_ablation
from lacscope.model_measures import depth_variance as depth_variance
from lacscope.model_measures import greedy_by_task as greedy_by_task
from lacscope.model_measures import identity_distance as identity_distance
from lacscope.model_measures import layer_agreement as layer_agreement
from lacscope.model_measures import layer_scores as layer_scores
from lacscope.model_measures import lim as lim
from lacscope.model_measures import remove_greedily as remove_greedily
from lacscope.model_measures import sleb as sleb
from lacscope.model_measures import state_similarity as state_similarity
from lacscope.model_measures import task_scorer as task_scorer
from lacscope.model_measures import update_geometry as update_geometry
from lacscope.model_measures import z_density as z_density

# Its modules can be imported by their old names too.
sys.modules.update(
    {
        f"{__name__}.ablation": _ablation,
        f"{__name__}.ablation_accuracy": _ablation_accuracy,
        f"{__name__}.agreement": _agreement,
        f"{__name__}.angles": _angles,
        f"{__name__}.angular": _angular,
        f"{__name__}.block_influence": _block_influence,
        f"{__name__}.bypassed": _bypassed,
        f"{__name__}.depth_curse": _depth_curse,
        f"{__name__}.greedy": _greedy,
        f"{__name__}.jacobian_probes": _jacobian_probes,
        f"{__name__}.last_state": _last_state,
        f"{__name__}.lim": _lim,
        f"{__name__}.results": _results,
        f"{__name__}.sleb": _sleb,
        f"{__name__}.state_similarity": _state_similarity,
        f"{__name__}.tokenwise": _tokenwise,
        f"{__name__}.updates": _updates,
        f"{__name__}.z_density": _z_density,
    }
)
