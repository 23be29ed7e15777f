"""What no rule accepts: each argument of the wrong type is refused by name, in words."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lacscope.rules import (
    CALM,
    SWIFT,
    ContiguousBlock,
    CosineThreshold,
    FixedLayers,
    GivenVoids,
    L2AdaptiveComputation,
    PromptDecided,
    RandomLayers,
    RandomTokens,
    TopImportance,
    UnifiedSkipping,
)

pytestmark = pytest.mark.usefixtures("unchecked")
MASK = np.eye(2, dtype=bool)
SCOPED: dict[str, Callable[..., Any]] = {
    "L2AdaptiveComputation": L2AdaptiveComputation,
    "FixedLayers": lambda **scope: FixedLayers([1], **scope),
    "GivenVoids": lambda **scope: GivenVoids({0: MASK}, **scope),
    "RandomLayers": lambda **scope: RandomLayers(1, 0, **scope),
    "RandomTokens": lambda **scope: RandomTokens(0.5, 0, **scope),
    "ContiguousBlock": lambda **scope: ContiguousBlock(1, 1, **scope),
    "UnifiedSkipping": lambda **scope: UnifiedSkipping(2, **scope),
    "CosineThreshold": lambda **scope: CosineThreshold(0.5, **scope),
    "TopImportance": lambda **scope: TopImportance([1.0, 2.0], 1, **scope),
    "CALM": CALM,
    "SWIFT": SWIFT,
    "PromptDecided": lambda **scope: PromptDecided(skip=1, **scope),
}
WHOLE = "must be a whole number"


@pytest.mark.parametrize("scope", ["decode", None, 3])
@pytest.mark.parametrize("rule", SCOPED)
def test_a_scope_that_is_none_is_refused(rule: str, scope: Any) -> None:
    text = f"scope must be a lacscope.rules.Scope, such as Scope(phase='decode'); got {scope!r}."
    with pytest.raises(ValueError, match=re.escape(text)):
        SCOPED[rule](scope=scope)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: CALM(threshold=True), "threshold (lambda) must be 0 to 1, got True."),
        (lambda: CALM(threshold="0.9"), "threshold (lambda) must be 0 to 1, got '0.9'."),
        (lambda: CALM(tau=True), "tau must be a finite number >= 0, got True."),
        (lambda: CALM(tau=float("inf")), "tau must be a finite number >= 0, got inf."),
        (lambda: CALM(n_steps=1.5), f"n_steps {WHOLE}, at least 1, got 1.5."),
        (lambda: CALM(n_steps=True), f"n_steps {WHOLE}, at least 1, got True."),
        (lambda: CALM(min_layer=1.5), f"min_layer {WHOLE}, at least 1, got 1.5."),
        (lambda: PromptDecided(skip=1.5), f"skip {WHOLE}, 0 or more, got 1.5."),
        (lambda: PromptDecided(min_usage=True), "min_usage is a share of the prompt's tokens, 0 to 1; got True."),
        (lambda: PromptDecided(min_usage="a"), "min_usage is a share of the prompt's tokens, 0 to 1; got 'a'."),
        (lambda: TopImportance([1.0, 2.0], 1.5), f"skip {WHOLE}, got 1.5."),
        (lambda: TopImportance([True, False], 1), "scores must be one finite number per layer, got (True, False)."),
        (lambda: TopImportance(["1", "2"], 1), "scores must be one finite number per layer, got ('1', '2')."),
        (lambda: TopImportance("12", 1), "scores must be one finite number per layer, got '12'."),
        (lambda: TopImportance(3.0, 1), "scores must be one finite number per layer, got 3.0."),
        (lambda: RandomTokens(True, 0), "rates must be one share of tokens per layer, 0 to 1; got True."),
        (lambda: RandomTokens("01", 0), "rates must be one share of tokens per layer, 0 to 1; got '01'."),
        (lambda: RandomTokens([0.5, "1"], 0), "rates must be one share of tokens per layer, 0 to 1; got [0.5, '1']."),
        (lambda: RandomTokens(None, 0), "rates must be one share of tokens per layer, 0 to 1; got None."),
        (lambda: RandomLayers(1, 0, ["token"]), "grain must be 'static', 'sequence' or 'token', got ['token']."),
        (lambda: GivenVoids({1: MASK, 1.5: MASK}), f"a sample id in masks {WHOLE}, got 1.5."),
        (lambda: GivenVoids({"1": MASK}), f"a sample id in masks {WHOLE}, got '1'."),
        (lambda: GivenVoids([MASK]), "masks must be a dict, a bool array [layer, token] for each sample id; got ["),
        (lambda: SWIFT("0.5"), "skip_ratio is a share of the sublayers, 0 to 1; got '0.5'."),
        (lambda: SWIFT(True), "skip_ratio is a share of the sublayers, 0 to 1; got True."),
        (lambda: SWIFT(score="good"), "score must be a number from 0 to 1, got 'good'."),
        (lambda: CosineThreshold("0.9"), "threshold is a cosine, -1 to 1; got '0.9'."),
        (lambda: CosineThreshold(None), "threshold is a cosine, -1 to 1; got None."),
        (lambda: UnifiedSkipping("2"), "speedup must be a finite number >= 1 (2: half the layers), got '2'."),
        (lambda: FixedLayers(np.array(2)), "layers must be a list of block indices, got array(2)."),
        (lambda: FixedLayers(None), "layers must be a list of block indices, got None."),
        (lambda: ContiguousBlock(1, 1.5), "start and n must be block indices (int), got 1.5."),
    ],
)
def test_an_argument_of_the_wrong_type_is_refused(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        make()
