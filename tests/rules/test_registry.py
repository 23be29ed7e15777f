"""Rules under a name of one's own: made by the command line, or refused in words."""

from typing import Any

import pytest

import lacscope
from lacscope.rules import RULES, ContiguousBlock, HaltingRule, register
from lacscope.rules._registry import rule

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RULES, "_added", {})


class EveryOther:
    """Every other layer, or as much of it as alpha says."""

    decides, unit, needs = "before", "block", frozenset[str]()

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def voids(self, view: Any, pass_state: Any, run_state: Any) -> Any:
        import torch

        return torch.full(view.shape, view.layer % 2 == 1, device=view.device)

    def describe(self) -> dict[str, Any]:
        return {"name": "EveryOther", "alpha": self.alpha}


def test_a_registered_rule_is_made_by_its_name() -> None:
    assert register("every-other", EveryOther) is EveryOther
    assert list(RULES) == ["lac", "every-other"]
    made = rule("every-other", 0.3)
    assert isinstance(made, HaltingRule)
    assert (made.alpha, rule("every-other").alpha) == (0.3, 1.0)
    assert rule("lac", 0.5) == lacscope.L2AdaptiveComputation(0.5)


def test_what_is_taken_or_makes_no_rule_is_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match="lacscope has a rule 'lac' of its own"):
        register("lac", EveryOther)
    with pytest.raises(ValueError, match="make is a rule's class or a function that makes one, got 'EveryOther'"):
        register("other", "EveryOther")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the name of a rule is made of letters"):
        register("every other", EveryOther)
    register("middle", lambda: ContiguousBlock(10, 5))
    with pytest.raises(ValueError, match=r"the rule 'middle' cannot be made of alpha 0\.8: .*takes 0 positional"):
        rule("middle", 0.8)
    register("nothing", dict)
    with pytest.raises(ValueError, match="registered as the rule 'nothing' makes a dict, which is no rule"):
        rule("nothing")
    with pytest.raises(ValueError, match="there is no rule 'midle'; choose one of lac, middle, nothing"):
        rule("midle")
