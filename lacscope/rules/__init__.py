"""Halting rules: which (layer, token) pairs are voids.

A rule sees one layer of one forward pass at a time and answers with a mask that is True at the voids.
What is then done with the mask (nothing, a readout, a bypass) is the *effect*, and lives in
:mod:`lacscope.tracing`: a rule never edits a stream.

Write your own in a few lines:

>>> import torch
>>> class EveryOther:
...     decides, unit, needs = "before", "block", frozenset()
...
...     def voids(self, view, pass_state, run_state):
...         return torch.full(view.shape, view.layer % 2 == 1, device=view.device)
>>> isinstance(EveryOther(), HaltingRule)
True
"""

from lacscope.rules._base import EFFECTS as EFFECTS
from lacscope.rules._base import NEEDS as NEEDS
from lacscope.rules._base import Decides as Decides
from lacscope.rules._base import Effect as Effect
from lacscope.rules._base import Grain as Grain
from lacscope.rules._base import HaltingRule as HaltingRule
from lacscope.rules._base import check_effect as check_effect
from lacscope.rules._base import describe_rule as describe_rule
from lacscope.rules._base import grain_of as grain_of
from lacscope.rules._base import has_history as has_history
from lacscope.rules._base import latches as latches
from lacscope.rules._base import needs_of as needs_of
from lacscope.rules._base import scope_of as scope_of
from lacscope.rules._calm import CALM as CALM
from lacscope.rules._cosine import CosineThreshold as CosineThreshold
from lacscope.rules._given import GivenVoids as GivenVoids
from lacscope.rules._in_pass import RuleInPass as RuleInPass
from lacscope.rules._lac import L2AdaptiveComputation as L2AdaptiveComputation
from lacscope.rules._prompt_decided import PromptDecided as PromptDecided
from lacscope.rules._random_voids import RandomLayers as RandomLayers
from lacscope.rules._random_voids import RandomTokens as RandomTokens
from lacscope.rules._registry import RULES as RULES
from lacscope.rules._registry import register as register
from lacscope.rules._scope import EVERYWHERE as EVERYWHERE
from lacscope.rules._scope import Scope as Scope
from lacscope.rules._shipped import SHIPPED as SHIPPED
from lacscope.rules._shipped import rule_effects as rule_effects
from lacscope.rules._shipped import rules_table as rules_table
from lacscope.rules._static import ContiguousBlock as ContiguousBlock
from lacscope.rules._static import FixedLayers as FixedLayers
from lacscope.rules._static import StaticRule as StaticRule
from lacscope.rules._static import TopImportance as TopImportance
from lacscope.rules._static import UnifiedSkipping as UnifiedSkipping
from lacscope.rules._swift import SWIFT as SWIFT
from lacscope.rules._view import UNITS as UNITS
from lacscope.rules._view import LayerView as LayerView
from lacscope.rules._view import Unit as Unit
