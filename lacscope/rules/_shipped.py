"""Every rule that lacscope ships, and the effects it can have."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lacscope.rules._base import EFFECTS, Effect, HaltingRule, grain_of, has_history, latches, needs_of, why_unsupported
from lacscope.rules._calm import CALM
from lacscope.rules._cosine import CosineThreshold
from lacscope.rules._given import GivenVoids
from lacscope.rules._lac import L2AdaptiveComputation
from lacscope.rules._prompt_decided import PromptDecided
from lacscope.rules._random_voids import RandomLayers, RandomTokens
from lacscope.rules._static import ContiguousBlock, FixedLayers, TopImportance, UnifiedSkipping
from lacscope.rules._swift import SWIFT
from lacscope.rules._view import UNITS, Unit


@dataclass(frozen=True)
class ShippedRule:
    """A rule, the units that it can have, and a function that makes one for a model of four layers.

    ``otherwise`` is an option that changes the rule's row of the table, with a rule that has this option set: the table
    then shows both.
    """

    name: str
    example: Callable[[Unit], HaltingRule]
    units: tuple[Unit, ...] = UNITS
    otherwise: tuple[str, HaltingRule] | None = None


SHIPPED = (
    ShippedRule("L2AdaptiveComputation", lambda unit: L2AdaptiveComputation(0.8, unit)),
    ShippedRule("FixedLayers", lambda unit: FixedLayers([1, 2], unit)),
    ShippedRule("GivenVoids", lambda unit: GivenVoids({0: np.eye(4, 64, dtype=bool)}, unit)),
    ShippedRule("RandomLayers", lambda unit: RandomLayers(2, seed=0, unit=unit)),
    ShippedRule("RandomTokens", lambda unit: RandomTokens(0.5, seed=0, unit=unit)),
    ShippedRule("ContiguousBlock", lambda unit: ContiguousBlock(1, 2, unit)),
    ShippedRule("UnifiedSkipping", lambda unit: UnifiedSkipping(2), ("block",)),
    ShippedRule("CosineThreshold", lambda unit: CosineThreshold(0.9, unit)),
    ShippedRule("TopImportance", lambda unit: TopImportance([1.0, 0.2, 0.3, 0.9], 1, unit)),
    ShippedRule(
        "CALM",
        lambda unit: CALM(0.0, tau=50.0, n_steps=1),
        ("block",),
        ('confidence="cosine"', CALM(confidence="cosine")),
    ),
    ShippedRule("SWIFT", lambda unit: SWIFT(attn=[1], mlp=[1, 2]), ("sublayers",)),
    ShippedRule("PromptDecided", lambda unit: PromptDecided(skip=1, inner=L2AdaptiveComputation(0.8, unit))),
)


def rule_effects() -> dict[tuple[str, Unit], dict[Effect, str | None]]:
    """For each shipped rule and each unit it can have: why it cannot have an effect, or None where it can.

    >>> rule_effects()["SWIFT", "sublayers"]["bypass"] is None
    True
    """
    return {
        (rule.name, unit): {effect: why_unsupported(unit, effect) for effect in EFFECTS}
        for rule in SHIPPED
        for unit in rule.units
    }


def rules_table() -> str:
    """Every shipped rule as a Markdown table, as it stands in docs/rules.md."""
    head = ["rule", "decides", "grain", "units", "latches", "history", "needs", *EFFECTS]
    lines = [head, ["---"] * len(head)]
    table = rule_effects()
    for shipped in SHIPPED:
        cells = _members(shipped.example(shipped.units[0]))
        if shipped.otherwise is not None:
            option, other = shipped.otherwise
            pairs = zip(cells, _members(other), strict=True)
            cells = [one if one == two else f"{one} (`{option}`: {two})" for one, two in pairs]
        decides, grain, latching, history, needs = cells
        lines.append(
            [
                f"`{shipped.name}`",
                decides,
                grain,
                ", ".join(shipped.units),
                latching,
                history,
                needs,
                *(
                    _cell([u for u in shipped.units if table[shipped.name, u][effect] is None], shipped.units)
                    for effect in EFFECTS
                ),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _members(rule: HaltingRule) -> list[str]:
    return [
        rule.decides,
        grain_of(rule),
        "yes" if latches(rule) else "no",
        "yes" if has_history(rule) else "no",
        ", ".join(sorted(needs_of(rule))) or "nothing",
    ]


def _cell(able: list[Unit], units: tuple[Unit, ...]) -> str:
    if len(able) == len(units):
        return "yes"
    return f"{', '.join(able)} alone" if able else "no"
