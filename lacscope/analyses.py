"""The old name of ``lacscope.trace_analyses``, until 1.0."""

import sys

from lacscope.reproduction import controls as _controls
from lacscope.reproduction.controls import _drawn, _fixed
from lacscope.reproduction.scores import _comparisons, _conditions, _norm_null, _scores, _verdicts
from lacscope.trace_analyses import (
    _agreement,
    _bootstrap,
    _depth,
    _effects,
    _group_usage,
    _groups,
    _norm_choices,
    _norms,
    _painters,
    _phase_matching,
    _phases,
    _statistics,
    _tell_tale,
    _tokens,
    _usage,
)
from lacscope.trace_analyses import agreement as agreement
from lacscope.trace_analyses import bootstrap_ratio as bootstrap_ratio
from lacscope.trace_analyses import cell_counts as cell_counts
from lacscope.trace_analyses import groups_by_class as groups_by_class
from lacscope.trace_analyses import groups_by_correct as groups_by_correct
from lacscope.trace_analyses import groups_by_position as groups_by_position
from lacscope.trace_analyses import groups_by_surprisal as groups_by_surprisal
from lacscope.trace_analyses import holm as holm
from lacscope.trace_analyses import layer_usage as layer_usage
from lacscope.trace_analyses import matched_difference as matched_difference
from lacscope.trace_analyses import mcnemar_exact as mcnemar_exact
from lacscope.trace_analyses import mean_exit_depth as mean_exit_depth
from lacscope.trace_analyses import norm_profile as norm_profile
from lacscope.trace_analyses import norm_signals as norm_signals
from lacscope.trace_analyses import norm_thresholds as norm_thresholds
from lacscope.trace_analyses import norms_by_layer as norms_by_layer
from lacscope.trace_analyses import painters_curves as painters_curves
from lacscope.trace_analyses import paired_bootstrap as paired_bootstrap
from lacscope.trace_analyses import rank_candidates as rank_candidates
from lacscope.trace_analyses import share_right as share_right
from lacscope.trace_analyses import skippable_compute as skippable_compute
from lacscope.trace_analyses import token_classes as token_classes
from lacscope.trace_analyses import token_shift as token_shift
from lacscope.trace_analyses import token_usage as token_usage
from lacscope.trace_analyses import usage_by_alpha as usage_by_alpha
from lacscope.trace_analyses import usage_by_group as usage_by_group
from lacscope.trace_analyses import wilson_interval as wilson_interval
from lacscope.traces import _voids

# Its modules can be imported by their old names too.
sys.modules.update(
    {
        f"{__name__}.voids": _voids,
        f"{__name__}.agreement": _agreement,
        f"{__name__}.bootstrap": _bootstrap,
        f"{__name__}.depth": _depth,
        f"{__name__}.effects": _effects,
        f"{__name__}.group_usage": _group_usage,
        f"{__name__}.groups": _groups,
        f"{__name__}.norm_choices": _norm_choices,
        f"{__name__}.norms": _norms,
        f"{__name__}.painters": _painters,
        f"{__name__}.phase_matching": _phase_matching,
        f"{__name__}.phases": _phases,
        f"{__name__}.statistics": _statistics,
        f"{__name__}.tell_tale": _tell_tale,
        f"{__name__}.tokens": _tokens,
        f"{__name__}.usage": _usage,
        f"{__name__}.scores": _scores,
        f"{__name__}.conditions": _conditions,
        f"{__name__}.comparisons": _comparisons,
        f"{__name__}.norm_null": _norm_null,
        f"{__name__}.verdicts": _verdicts,
        f"{__name__}.controls.drawn": _drawn,
        f"{__name__}.controls.fixed": _fixed,
        f"{__name__}.controls": _controls,
    }
)
