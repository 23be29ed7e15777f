"""Execution plans: the blocks of a model in another order, on the same weights."""

from lacscope.plans._freeze import freeze as freeze
from lacscope.plans._plan import Plan as Plan
from lacscope.plans._plan import PlanError as PlanError
from lacscope.plans._plan import Slot as Slot
from lacscope.plans._running import RunningPlan as RunningPlan
from lacscope.plans._running import plan as plan
