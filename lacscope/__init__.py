"""lacscope: which layers of a language model do the work, for which tokens, in which phase.

Every public name is listed here and resolved when first used, so that opening and plotting a trace does not
import torch.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lacscope.adapters import PartialPassError as PartialPassError
    from lacscope.analyses.depth import mean_exit_depth as mean_exit_depth
    from lacscope.analyses.depth import skippable_compute as skippable_compute
    from lacscope.analyses.effects import token_shift as token_shift
    from lacscope.analyses.group_usage import usage_by_group as usage_by_group
    from lacscope.analyses.groups import groups_by_class as groups_by_class
    from lacscope.analyses.groups import groups_by_correct as groups_by_correct
    from lacscope.analyses.groups import groups_by_position as groups_by_position
    from lacscope.analyses.groups import groups_by_surprisal as groups_by_surprisal
    from lacscope.analyses.norm_choices import share_right as share_right
    from lacscope.analyses.norms import norm_profile as norm_profile
    from lacscope.analyses.painters import painters_curves as painters_curves
    from lacscope.analyses.phase_matching import matched_difference as matched_difference
    from lacscope.analyses.phases import cell_counts as cell_counts
    from lacscope.analyses.tell_tale import norm_signals as norm_signals
    from lacscope.analyses.tell_tale import norm_thresholds as norm_thresholds
    from lacscope.analyses.tell_tale import rank_candidates as rank_candidates
    from lacscope.analyses.usage import layer_usage as layer_usage
    from lacscope.analyses.usage import token_usage as token_usage
    from lacscope.analyses.usage import usage_by_alpha as usage_by_alpha
    from lacscope.analyses.voids import recorded_voids as recorded_voids
    from lacscope.analyses.voids import voids as voids
    from lacscope.cached import trace_from_cache as trace_from_cache
    from lacscope.checks import UnsupportedModelError as UnsupportedModelError
    from lacscope.choices import score_choices as score_choices
    from lacscope.dataset import TraceError as TraceError
    from lacscope.dataset import open_trace as open_trace
    from lacscope.dataset import save_trace as save_trace
    from lacscope.dataset import validate as validate
    from lacscope.depth_efficiency import current_skip_influence as current_skip_influence
    from lacscope.depth_efficiency import depth_scores as depth_scores
    from lacscope.depth_efficiency import effective_depths as effective_depths
    from lacscope.depth_efficiency import future_skip_influence as future_skip_influence
    from lacscope.depth_efficiency import integrated_gradients as integrated_gradients
    from lacscope.depth_efficiency import linear_maps as linear_maps
    from lacscope.depth_efficiency import local_skip_influence as local_skip_influence
    from lacscope.depth_efficiency import logit_lens as logit_lens
    from lacscope.depth_efficiency import relative_contributions as relative_contributions
    from lacscope.depth_efficiency import residual_cosines as residual_cosines
    from lacscope.depth_efficiency import residual_erasure as residual_erasure
    from lacscope.hooks import PaddingWarning as PaddingWarning
    from lacscope.hooks import RunWarning as RunWarning
    from lacscope.hooks import TrainingModeWarning as TrainingModeWarning
    from lacscope.hooks import halting as halting
    from lacscope.hooks import halting_hooks as halting_hooks
    from lacscope.importance import ablation_accuracy as ablation_accuracy
    from lacscope.importance import angular_distance as angular_distance
    from lacscope.importance import block_influence as block_influence
    from lacscope.importance import causal_ablation as causal_ablation
    from lacscope.importance import depth_variance as depth_variance
    from lacscope.importance import greedy_by_task as greedy_by_task
    from lacscope.importance import identity_distance as identity_distance
    from lacscope.importance import layer_agreement as layer_agreement
    from lacscope.importance import layer_scores as layer_scores
    from lacscope.importance import lim as lim
    from lacscope.importance import sleb as sleb
    from lacscope.importance import state_similarity as state_similarity
    from lacscope.importance import update_geometry as update_geometry
    from lacscope.importance import z_density as z_density
    from lacscope.inputs import InputError as InputError
    from lacscope.inputs import InputWarning as InputWarning
    from lacscope.masks import VoidMask as VoidMask
    from lacscope.models import ModelLoadError as ModelLoadError
    from lacscope.models import load_model as load_model
    from lacscope.painters import score_variants as score_variants
    from lacscope.plans import Plan as Plan
    from lacscope.plans import PlanError as PlanError
    from lacscope.plans import freeze as freeze
    from lacscope.plans import plan as plan
    from lacscope.recorder import NonFiniteStreamError as NonFiniteStreamError
    from lacscope.recorder import Recorder as Recorder
    from lacscope.reproduction.run import reproduce as reproduce
    from lacscope.reproduction.settings import ReproductionSettings as ReproductionSettings
    from lacscope.reproduction.settings import load_questions as load_questions
    from lacscope.reproduction.studies import open_studies as open_studies
    from lacscope.reproduction.write import write_reproduction as write_reproduction
    from lacscope.residuals import read_residuals as read_residuals
    from lacscope.residuals import rerun as rerun
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
    from lacscope.run import trace as trace
    from lacscope.stacking import join_traces as join_traces
    from lacscope.tradeoff import plan_tradeoff as plan_tradeoff
    from lacscope.tradeoff import skipping_plans as skipping_plans

_HOMES = {
    "adapters": ("PartialPassError",),
    "analyses.depth": ("mean_exit_depth", "skippable_compute"),
    "analyses.effects": ("token_shift",),
    "analyses.group_usage": ("usage_by_group",),
    "analyses.groups": ("groups_by_class", "groups_by_correct", "groups_by_position", "groups_by_surprisal"),
    "analyses.norm_choices": ("share_right",),
    "analyses.norms": ("norm_profile",),
    "analyses.painters": ("painters_curves",),
    "analyses.phase_matching": ("matched_difference",),
    "analyses.phases": ("cell_counts",),
    "analyses.tell_tale": ("norm_signals", "norm_thresholds", "rank_candidates"),
    "analyses.usage": ("layer_usage", "token_usage", "usage_by_alpha"),
    "analyses.voids": ("recorded_voids", "voids"),
    "cached": ("trace_from_cache",),
    "checks": ("UnsupportedModelError",),
    "choices": ("score_choices",),
    "dataset": ("TraceError", "open_trace", "save_trace", "validate"),
    "depth_efficiency": (
        "current_skip_influence",
        "depth_scores",
        "effective_depths",
        "future_skip_influence",
        "integrated_gradients",
        "linear_maps",
        "local_skip_influence",
        "logit_lens",
        "relative_contributions",
        "residual_cosines",
        "residual_erasure",
    ),
    "hooks": ("PaddingWarning", "RunWarning", "TrainingModeWarning", "halting", "halting_hooks"),
    "importance": (
        "ablation_accuracy",
        "angular_distance",
        "block_influence",
        "causal_ablation",
        "depth_variance",
        "greedy_by_task",
        "identity_distance",
        "layer_agreement",
        "layer_scores",
        "lim",
        "sleb",
        "state_similarity",
        "update_geometry",
        "z_density",
    ),
    "inputs": ("InputError", "InputWarning"),
    "masks": ("VoidMask",),
    "models": ("ModelLoadError", "load_model"),
    "painters": ("score_variants",),
    "plans": ("Plan", "PlanError", "freeze", "plan"),
    "recorder": ("NonFiniteStreamError", "Recorder"),
    "reproduction.run": ("reproduce",),
    "reproduction.settings": ("ReproductionSettings", "load_questions"),
    "reproduction.studies": ("open_studies",),
    "reproduction.write": ("write_reproduction",),
    "residuals": ("read_residuals", "rerun"),
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
    "run": ("trace",),
    "stacking": ("join_traces",),
    "tradeoff": ("plan_tradeoff", "skipping_plans"),
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
