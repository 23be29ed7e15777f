"""The old name of ``lacscope.model_measures``, until 1.0."""

from lacscope.model_measures._tradeoff import best_constant as best_constant
from lacscope.model_measures._tradeoff import plan_tradeoff as plan_tradeoff
from lacscope.model_measures._tradeoff import skipping_plans as skipping_plans
