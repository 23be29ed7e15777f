"""The old name of ``lacscope.model_measures``, until 1.0."""

from lacscope.guards._old_paths import old_modules
from lacscope.model_measures import *  # noqa: F403

old_modules(
    __name__,
    {
        "lacscope.model_measures": """
            ablation ablation_accuracy agreement angles angular block_influence bypassed depth_curse
            greedy jacobian_probes last_state lim results=importance_results sleb state_similarity tokenwise updates
            z_density
        """
    },
)
