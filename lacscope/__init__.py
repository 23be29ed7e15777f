"""lacscope: which layers of a language model do the work, for which tokens, in which phase.

Every public name is listed here and resolved when first used, so that opening and plotting a trace does not
import torch.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lacscope.model_measures import ablation_accuracy as ablation_accuracy
    from lacscope.model_measures import angular_distance as angular_distance
    from lacscope.model_measures import block_influence as block_influence
    from lacscope.model_measures import causal_ablation as causal_ablation
    from lacscope.model_measures import current_skip_influence as current_skip_influence
    from lacscope.model_measures import depth_scores as depth_scores
    from lacscope.model_measures import depth_variance as depth_variance
    from lacscope.model_measures import effective_depths as effective_depths
    from lacscope.model_measures import future_skip_influence as future_skip_influence
    from lacscope.model_measures import greedy_by_task as greedy_by_task
    from lacscope.model_measures import identity_distance as identity_distance
    from lacscope.model_measures import integrated_gradients as integrated_gradients
    from lacscope.model_measures import layer_agreement as layer_agreement
    from lacscope.model_measures import layer_scores as layer_scores
    from lacscope.model_measures import lim as lim
    from lacscope.model_measures import linear_maps as linear_maps
    from lacscope.model_measures import local_skip_influence as local_skip_influence
    from lacscope.model_measures import logit_lens as logit_lens
    from lacscope.model_measures import relative_contributions as relative_contributions
    from lacscope.model_measures import residual_cosines as residual_cosines
    from lacscope.model_measures import residual_erasure as residual_erasure
    from lacscope.model_measures import sleb as sleb
    from lacscope.model_measures import state_similarity as state_similarity
    from lacscope.model_measures import update_geometry as update_geometry
    from lacscope.model_measures import z_density as z_density
    from lacscope.model_measures._choices import score_choices as score_choices
    from lacscope.model_measures._painters import score_variants as score_variants
    from lacscope.model_measures._residuals import read_residuals as read_residuals
    from lacscope.model_measures._residuals import rerun as rerun
    from lacscope.model_measures._tradeoff import plan_tradeoff as plan_tradeoff
    from lacscope.model_measures._tradeoff import skipping_plans as skipping_plans
    from lacscope.models._checks import UnsupportedModelError as UnsupportedModelError
    from lacscope.models._leftovers import restore as restore
    from lacscope.models._loading import ModelLoadError as ModelLoadError
    from lacscope.models._loading import load_model as load_model
    from lacscope.models.adapters import PartialPassError as PartialPassError
    from lacscope.plans import Plan as Plan
    from lacscope.plans import PlanError as PlanError
    from lacscope.plans import freeze as freeze
    from lacscope.plans import plan as plan
    from lacscope.reproduction._run import reproduce as reproduce
    from lacscope.reproduction._settings import ReproductionSettings as ReproductionSettings
    from lacscope.reproduction._settings import load_questions as load_questions
    from lacscope.reproduction._studies import open_studies as open_studies
    from lacscope.reproduction._write import write_reproduction as write_reproduction
    from lacscope.rules import CALM as CALM
    from lacscope.rules import SWIFT as SWIFT
    from lacscope.rules import ContiguousBlock as ContiguousBlock
    from lacscope.rules import CosineThreshold as CosineThreshold
    from lacscope.rules import FixedLayers as FixedLayers
    from lacscope.rules import GivenVoids as GivenVoids
    from lacscope.rules import HaltingRule as HaltingRule
    from lacscope.rules import L2AdaptiveComputation as L2AdaptiveComputation
    from lacscope.rules import LayerView as LayerView
    from lacscope.rules import PromptDecided as PromptDecided
    from lacscope.rules import RandomLayers as RandomLayers
    from lacscope.rules import RandomTokens as RandomTokens
    from lacscope.rules import Scope as Scope
    from lacscope.rules import TopImportance as TopImportance
    from lacscope.rules import UnifiedSkipping as UnifiedSkipping
    from lacscope.rules import rule_effects as rule_effects
    from lacscope.trace_analyses._depth import mean_exit_depth as mean_exit_depth
    from lacscope.trace_analyses._depth import skippable_compute as skippable_compute
    from lacscope.trace_analyses._effects import token_shift as token_shift
    from lacscope.trace_analyses._group_usage import usage_by_group as usage_by_group
    from lacscope.trace_analyses._groups import groups_by_class as groups_by_class
    from lacscope.trace_analyses._groups import groups_by_correct as groups_by_correct
    from lacscope.trace_analyses._groups import groups_by_position as groups_by_position
    from lacscope.trace_analyses._groups import groups_by_surprisal as groups_by_surprisal
    from lacscope.trace_analyses._norm_choices import share_right as share_right
    from lacscope.trace_analyses._norms import norm_profile as norm_profile
    from lacscope.trace_analyses._painters import painters_curves as painters_curves
    from lacscope.trace_analyses._phase_matching import matched_difference as matched_difference
    from lacscope.trace_analyses._phases import cell_counts as cell_counts
    from lacscope.trace_analyses._tell_tale import norm_signals as norm_signals
    from lacscope.trace_analyses._tell_tale import norm_thresholds as norm_thresholds
    from lacscope.trace_analyses._tell_tale import rank_candidates as rank_candidates
    from lacscope.trace_analyses._usage import layer_usage as layer_usage
    from lacscope.trace_analyses._usage import token_usage as token_usage
    from lacscope.trace_analyses._usage import usage_by_alpha as usage_by_alpha
    from lacscope.traces._joining import join_traces as join_traces
    from lacscope.traces._masks import VoidMask as VoidMask
    from lacscope.traces._schema import TraceError as TraceError
    from lacscope.traces._schema import open_trace as open_trace
    from lacscope.traces._schema import save_trace as save_trace
    from lacscope.traces._schema import validate as validate
    from lacscope.traces._voids import recorded_voids as recorded_voids
    from lacscope.traces._voids import voids as voids
    from lacscope.tracing._from_cache import trace_from_cache as trace_from_cache
    from lacscope.tracing._inputs import InputError as InputError
    from lacscope.tracing._inputs import InputWarning as InputWarning
    from lacscope.tracing._recorder import NonFiniteStreamError as NonFiniteStreamError
    from lacscope.tracing._recorder import Recorder as Recorder
    from lacscope.tracing._run import trace as trace
    from lacscope.tracing._session import PaddingWarning as PaddingWarning
    from lacscope.tracing._session import RunWarning as RunWarning
    from lacscope.tracing._session import TrainingModeWarning as TrainingModeWarning
    from lacscope.tracing._session import halting as halting
    from lacscope.tracing._session import halting_hooks as halting_hooks

_HOMES = {
    "model_measures": (
        "ablation_accuracy",
        "angular_distance",
        "block_influence",
        "causal_ablation",
        "current_skip_influence",
        "depth_scores",
        "depth_variance",
        "effective_depths",
        "future_skip_influence",
        "greedy_by_task",
        "identity_distance",
        "integrated_gradients",
        "layer_agreement",
        "layer_scores",
        "lim",
        "linear_maps",
        "local_skip_influence",
        "logit_lens",
        "relative_contributions",
        "residual_cosines",
        "residual_erasure",
        "sleb",
        "state_similarity",
        "update_geometry",
        "z_density",
    ),
    "model_measures._choices": ("score_choices",),
    "model_measures._painters": ("score_variants",),
    "model_measures._residuals": ("read_residuals", "rerun"),
    "model_measures._tradeoff": ("plan_tradeoff", "skipping_plans"),
    "models._checks": ("UnsupportedModelError",),
    "models._leftovers": ("restore",),
    "models._loading": ("ModelLoadError", "load_model"),
    "models.adapters": ("PartialPassError",),
    "plans": ("Plan", "PlanError", "freeze", "plan"),
    "reproduction._run": ("reproduce",),
    "reproduction._settings": ("ReproductionSettings", "load_questions"),
    "reproduction._studies": ("open_studies",),
    "reproduction._write": ("write_reproduction",),
    "rules": (
        "CALM",
        "ContiguousBlock",
        "CosineThreshold",
        "FixedLayers",
        "GivenVoids",
        "HaltingRule",
        "L2AdaptiveComputation",
        "LayerView",
        "PromptDecided",
        "RandomLayers",
        "RandomTokens",
        "SWIFT",
        "Scope",
        "TopImportance",
        "UnifiedSkipping",
        "rule_effects",
    ),
    "trace_analyses._depth": ("mean_exit_depth", "skippable_compute"),
    "trace_analyses._effects": ("token_shift",),
    "trace_analyses._group_usage": ("usage_by_group",),
    "trace_analyses._groups": ("groups_by_class", "groups_by_correct", "groups_by_position", "groups_by_surprisal"),
    "trace_analyses._norm_choices": ("share_right",),
    "trace_analyses._norms": ("norm_profile",),
    "trace_analyses._painters": ("painters_curves",),
    "trace_analyses._phase_matching": ("matched_difference",),
    "trace_analyses._phases": ("cell_counts",),
    "trace_analyses._tell_tale": ("norm_signals", "norm_thresholds", "rank_candidates"),
    "trace_analyses._usage": ("layer_usage", "token_usage", "usage_by_alpha"),
    "traces._joining": ("join_traces",),
    "traces._masks": ("VoidMask",),
    "traces._schema": ("TraceError", "open_trace", "save_trace", "validate"),
    "traces._voids": ("recorded_voids", "voids"),
    "tracing._from_cache": ("trace_from_cache",),
    "tracing._inputs": ("InputError", "InputWarning"),
    "tracing._recorder": ("NonFiniteStreamError", "Recorder"),
    "tracing._run": ("trace",),
    "tracing._session": ("PaddingWarning", "RunWarning", "TrainingModeWarning", "halting", "halting_hooks"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)

try:
    __version__ = version("lacscope")
except PackageNotFoundError:
    __version__ = "not installed"


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"lacscope has no {name!r}; it has {', '.join(__all__)}.")
    value = getattr(importlib.import_module(f"lacscope.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
