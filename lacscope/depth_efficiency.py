"""The old name of ``lacscope.model_measures``, until 1.0."""

from lacscope.guards._old_paths import old_modules
from lacscope.model_measures import *  # noqa: F403

old_modules(
    __name__,
    {
        "lacscope.model_measures": """
            answered contributions current=current_influence cuts=cut_positions depth_score effective_depth
            erasure future=future_influence gradients linear_maps local=local_influence logit_lens pooling
            positions prompts=csordas_prompts skip_influence
        """
    },
)
