"""The old name of ``lacscope.model_measures``, until 1.0."""

import sys

from lacscope.model_measures import CSORDAS_CONTRIBUTIONS as CSORDAS_CONTRIBUTIONS
from lacscope.model_measures import CSORDAS_COSINES as CSORDAS_COSINES
from lacscope.model_measures import CSORDAS_CURRENT as CSORDAS_CURRENT
from lacscope.model_measures import CSORDAS_DEPTH_SCORE as CSORDAS_DEPTH_SCORE
from lacscope.model_measures import CSORDAS_DEPTH_SCORE_MATH as CSORDAS_DEPTH_SCORE_MATH
from lacscope.model_measures import CSORDAS_ERASURE as CSORDAS_ERASURE
from lacscope.model_measures import CSORDAS_FUTURE as CSORDAS_FUTURE
from lacscope.model_measures import CSORDAS_GRADIENTS as CSORDAS_GRADIENTS
from lacscope.model_measures import CSORDAS_LINEAR_MAPS as CSORDAS_LINEAR_MAPS
from lacscope.model_measures import CSORDAS_LOCAL as CSORDAS_LOCAL
from lacscope.model_measures import CSORDAS_LOGIT_LENS as CSORDAS_LOGIT_LENS
from lacscope.model_measures import CSORDAS_PROMPT_FORMAT as CSORDAS_PROMPT_FORMAT
from lacscope.model_measures import CSORDAS_QUESTIONS as CSORDAS_QUESTIONS
from lacscope.model_measures import HU_EFFECTIVE_DEPTH as HU_EFFECTIVE_DEPTH
from lacscope.model_measures import POOLED as POOLED
from lacscope.model_measures import TokenizerMismatchError as TokenizerMismatchError
from lacscope.model_measures import (
    _answered,
    _contributions,
    _current,
    _cuts,
    _depth_score,
    _effective_depth,
    _erasure,
    _future,
    _gradients,
    _linear_maps,
    _local,
    _logit_lens,
    _pooling,
    _positions,
    _prompts,
    _skip_influence,
)
from lacscope.model_measures import current_skip_influence as current_skip_influence
from lacscope.model_measures import depth_score as depth_score
from lacscope.model_measures import depth_scores as depth_scores
from lacscope.model_measures import effective_depths as effective_depths
from lacscope.model_measures import first_high_overlap as first_high_overlap
from lacscope.model_measures import first_low_kl as first_low_kl
from lacscope.model_measures import future_skip_influence as future_skip_influence
from lacscope.model_measures import influence_on_later_layers as influence_on_later_layers
from lacscope.model_measures import integrated_gradients as integrated_gradients
from lacscope.model_measures import last_sign_change as last_sign_change
from lacscope.model_measures import linear_maps as linear_maps
from lacscope.model_measures import local_skip_influence as local_skip_influence
from lacscope.model_measures import logit_lens as logit_lens
from lacscope.model_measures import pool_tokens as pool_tokens
from lacscope.model_measures import relative_contributions as relative_contributions
from lacscope.model_measures import residual_cosines as residual_cosines
from lacscope.model_measures import residual_erasure as residual_erasure

# Its modules can be imported by their old names too.
sys.modules.update(
    {
        f"{__name__}.answered": _answered,
        f"{__name__}.contributions": _contributions,
        f"{__name__}.current": _current,
        f"{__name__}.cuts": _cuts,
        f"{__name__}.depth_score": _depth_score,
        f"{__name__}.effective_depth": _effective_depth,
        f"{__name__}.erasure": _erasure,
        f"{__name__}.future": _future,
        f"{__name__}.gradients": _gradients,
        f"{__name__}.linear_maps": _linear_maps,
        f"{__name__}.local": _local,
        f"{__name__}.logit_lens": _logit_lens,
        f"{__name__}.pooling": _pooling,
        f"{__name__}.positions": _positions,
        f"{__name__}.prompts": _prompts,
        f"{__name__}.skip_influence": _skip_influence,
    }
)
