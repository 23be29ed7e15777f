"""The protocol of a halting rule, and what a rule must be for an effect."""

import dataclasses
import json
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from jaxtyping import Bool
from torch import Tensor

from lacscope.guards._arguments import one_of
from lacscope.rules._scope import EVERYWHERE, Scope
from lacscope.rules._view import UNITS, LayerView, Unit
from lacscope.traces._options import EFFECTS as EFFECTS
from lacscope.traces._options import Effect as Effect

Decides = Literal["before", "after"]
Grain = Literal["static", "sequence", "token"]

NEEDS = ("phase", "position", "valid", "sample", "head")


@runtime_checkable
class HaltingRule(Protocol):
    """The protocol of a halting rule: a frozen dataclass with these members.

    ``decides``: ``"before"`` its unit runs (it can save compute) or ``"after"`` (it cannot). ``unit``: ``"block"``,
    ``"attn"``, ``"mlp"``, or ``"sublayers"`` for attention and MLP, each asked apart. ``needs``: a subset of
    ``{"phase", "position", "valid", "sample", "head"}``, see :class:`LayerView`. ``pass_state`` is a dict that lives
    for one forward pass, ``run_state`` one that lives from the prefill to the last decode step of a run; under
    ``"sublayers"`` each kind has its own.

    A rule may also have

    - ``grain``: at what its mask changes: ``"static"`` (never: a set of layers), ``"sequence"`` or ``"token"``
      (the default);
    - ``latches``: True where a token's first void makes all its later layers voids (default False); the pass does it;
    - ``scope``: a :class:`Scope`, which the pass applies (default: everywhere);
    - ``history``: True where it compares a layer with the layers executed before it (default False);
    - ``watch(view, pass_state, run_state)``: for a rule that decides before: shown each unit after it ran,
      for what it decides later;
    - ``fit(model, data)``, which gives a calibrated copy;
    - ``describe()``, a short dict in place of its fields, for a rule too big to be described by them.
    """

    @property
    def decides(self) -> Decides: ...
    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def unit(self) -> Unit: ...
    def voids(
        self, view: LayerView, pass_state: dict[str, Any], run_state: dict[str, Any]
    ) -> Bool[Tensor, "batch pos"]: ...


def grain_of(rule: HaltingRule) -> Grain:
    """At what the rule's mask changes; ``"token"`` where it does not say."""
    return getattr(rule, "grain", "token")


def latches(rule: HaltingRule) -> bool:
    """True where a token's first void makes all its later layers voids."""
    return bool(getattr(rule, "latches", False))


def has_history(rule: HaltingRule) -> bool:
    """True where the rule compares a layer with the layers executed before it, so that their order matters."""
    return bool(getattr(rule, "history", False))


def scope_of(rule: HaltingRule) -> Scope:
    """Where the rule holds; everywhere where it does not say."""
    return getattr(rule, "scope", EVERYWHERE)


def needs_of(rule: HaltingRule) -> frozenset[str]:
    """What has to be known of a pass: the rule's own needs and its scope's."""
    return frozenset(rule.needs) | scope_of(rule).needs


def check_unit(unit: str) -> None:
    """Raise ValueError for a unit that there is not."""
    one_of("unit", unit, UNITS)


def why_unsupported(unit: Unit, effect: Effect) -> str | None:
    """Why rules of this unit cannot have this effect; None where they can."""
    if effect != "readout" or unit == "block":
        return None
    use = "a rule on blocks" if unit == "sublayers" else "unit='block'"
    return (
        f"effect='readout' reads the stream after a token's last active block; it is not defined for "
        f"unit={unit!r}. Use {use}, or effect='bypass' or 'observe'."
    )


def check_effect(rule: HaltingRule | None, effect: str) -> None:
    """Raise where the effect is unknown, or where this rule cannot have it; the message says why."""
    one_of("effect", effect, EFFECTS)
    if rule is None:
        if effect != "observe":
            raise ValueError(
                f"effect={effect!r} needs a halting rule, got rule=None. Pass one, for example "
                "rule=L2AdaptiveComputation(alpha=0.8), or use effect='observe'."
            )
        return
    check_rule(rule)
    reason = why_unsupported(rule.unit, effect)  # type: ignore[arg-type]  # one_of has checked it
    if reason is not None:
        raise ValueError(reason)


def check_rule(rule: Any) -> None:
    """Raise, in words, for what is not a rule of the protocol: see :class:`HaltingRule`."""
    if isinstance(rule, type):
        raise TypeError(f"rule is the class {rule.__name__}: give one of it, such as {rule.__name__}(...).")
    if not isinstance(rule, HaltingRule):
        raise TypeError(
            f"rule must have decides, needs, unit and voids(view, pass_state, run_state); got {rule!r}. "
            "lacscope ships L2AdaptiveComputation, FixedLayers, GivenVoids and others: see lacscope.rules."
        )
    if rule.decides not in get_args(Decides):
        raise ValueError(f"{rule!r} decides {rule.decides!r}; a rule decides 'before' or 'after' its unit runs.")
    if rule.unit not in UNITS:
        raise ValueError(f"{rule!r} has unit {rule.unit!r}; a rule's unit is one of {', '.join(map(repr, UNITS))}.")
    grain, scope = getattr(rule, "grain", "token"), getattr(rule, "scope", EVERYWHERE)
    if grain not in get_args(Grain):
        raise ValueError(f"{rule!r} has grain {grain!r}; a rule's grain is 'static', 'sequence' or 'token'.")
    if not isinstance(scope, Scope):
        raise TypeError(f"{rule!r} has scope {scope!r}; a rule's scope is a lacscope.rules.Scope.")
    unknown = sorted(set(rule.needs) - set(NEEDS))
    if unknown:
        raise ValueError(f"{rule!r} needs {unknown}; a rule may need {', '.join(NEEDS)}.")


def describe_rule(rule: HaltingRule | None) -> str:
    """The rule as JSON, as stored in a trace: its class name and its fields, or its own short ``describe()``.

    Its scope stands in it where it is not the whole pass.

    >>> describe_rule(None)
    'null'
    """
    if rule is None:
        return json.dumps(None)
    if hasattr(rule, "describe"):
        fields: dict[str, Any] = dict(rule.describe())
    else:
        fields = dataclasses.asdict(rule) if dataclasses.is_dataclass(rule) else {}
    scope = getattr(rule, "scope", EVERYWHERE)
    if isinstance(scope, Scope):
        fields.pop("scope", None)
        fields |= {"scope": scope.describe()} if scope != EVERYWHERE else {}
    return json.dumps({"name": type(rule).__name__, **fields}, sort_keys=True, default=str)
