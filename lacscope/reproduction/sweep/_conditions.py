"""A condition as a halting rule: LAC itself, or a control matched to what LAC did on the same samples."""

import xarray as xr

from lacscope.reproduction.controls import permuted_exits, random_layers, random_tokens
from lacscope.reproduction.sweep._spec import RANDOM_CONTROLS, Condition
from lacscope.rules import FixedLayers, GivenVoids, HaltingRule, L2AdaptiveComputation
from lacscope.traces._voids import voids

ROW_STRIDE = 64  # rows of one question, one per choice, are named sample * ROW_STRIDE + choice


def lac_rule(condition: Condition) -> L2AdaptiveComputation:
    """The rule that a condition is, or is matched to."""
    assert condition.alpha is not None
    return L2AdaptiveComputation(condition.alpha)


def rule_of_condition(condition: Condition, matched: xr.Dataset) -> HaltingRule:
    """The rule that makes a condition's voids.

    Args:
        condition: any but the full model and ``observe``.
        matched: the trace whose voids a random control is matched to: the full model's under ``readout``,
            LAC's own run at that alpha under ``bypass``.
    """
    if condition.rule == "lac":
        return lac_rule(condition)
    if condition.rule not in RANDOM_CONTROLS:
        return FixedLayers(condition.layers)
    assert condition.alpha is not None
    # Drawn by question, not by row: each of its choices then stands after the same masked prompt.
    named = matched.assign_coords(sample=matched["sample"] // ROW_STRIDE)
    mask = voids(named, condition.alpha)
    if condition.rule == "permuted_exits":
        drawn = permuted_exits(named, mask, seed=condition.seed)
    else:
        make = random_layers if condition.rule == "random_layers" else random_tokens
        drawn = make(named, mask, seed=condition.seed, protect=condition.protect)
    return GivenVoids.of(drawn.assign_coords(sample=matched["sample"]))
