"""What a reproduction may be asked for: every setting that no run could have is refused, in words, when it is made."""

import json
import re
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lacscope.reproduction._presets import PRESETS
from lacscope.reproduction._settings import ReproductionSettings

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"effects": "readout"}, "effects must be a list of effects, got 'readout'."),
        ({"effects": ("bypas",)}, "unknown effect 'bypas' to reproduce; choose from readout, bypass. Did you mean"),
        ({"effects": ("observe",)}, "unknown effect 'observe' to reproduce; choose from readout, bypass."),
        ({"style": "papers"}, "unknown style 'papers'; choose one of 'paper', 'plain'. Did you mean 'paper'?"),
        ({"alphas": ()}, "alphas is empty: give at least one, such as 0.8."),
        ({"alphas": 0.8}, "alphas must be a list of numbers >= 0, got 0.8."),
        ({"alphas": (0.8, -1.0)}, "alphas[1] must be a finite number >= 0, got -1.0."),
        ({"alphas": (0.1, 0.8, 0.8)}, "alphas has 0.8 twice; each alpha is run once."),
        ({"generate_alphas": "0.8"}, "generate_alphas must be a list of numbers >= 0, got '0.8'."),
        ({"generate_alphas": (0.8, float("nan"))}, "generate_alphas[1] must be a finite number >= 0, got nan."),
        ({"generate_alphas": (0.1, 0.1)}, "generate_alphas has 0.1 twice"),
        ({"control_alphas": (0.8,)}, "control_alphas must be {effect: alphas}, got (0.8,)."),
        (
            {"control_alphas": {"observe": (0.8,)}},
            "unknown effect of control_alphas 'observe'; choose one of 'readout'",
        ),
        ({"control_alphas": {"readout": 0.8}}, "control_alphas['readout'] must be a list of numbers >= 0, got 0.8."),
        ({"control_alphas": {"bypass": (0.3,)}}, "the controls at alpha 0.3 need the sweep's own run there: add it to"),
        ({"control_seeds": (1, 1)}, "control_seeds must differ from one another, got 1 twice."),
        ({"control_seeds": (0, -1)}, "control_seeds[1] must be 0 or more, got -1."),
        ({"control_seeds": 2}, "control_seeds must be a list of whole numbers, got 2."),
        ({"limit": 0}, "limit must be at least 1, got 0."),
        ({"limit": True}, "limit must be a whole number, at least 1, got True."),
        ({"generate_limit": 0}, "generate_limit must be at least 1, got 0."),
        ({"control_limit": 1.5}, "control_limit must be a whole number, at least 1, got 1.5."),
        ({"shots": -1}, "shots must be 0 or more, got -1."),
        ({"shots": None}, "shots must be a whole number, 0 or more, got None."),
        ({"seed": -1}, "seed must be 0 or more, got -1."),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0."),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0."),
        ({"shard_size": "32"}, "shard_size must be a whole number, at least 1, got '32'."),
        ({"temperature": -0.1}, "temperature must be a finite number >= 0 (0 is greedy), got -0.1."),
        ({"top_p": 0}, "top_p must be in (0, 1] (1 keeps every token), got 0."),
        ({"keep_text": "no"}, "keep_text must be True or False, got 'no'."),
        ({"keep_traces": 1}, "keep_traces must be True or False, got 1."),
        ({"chat_template_kwargs": "enable_thinking"}, "chat_template_kwargs must be {name: value}, got 'enable_think"),
    ],
)
def test_what_no_run_could_have_is_refused(unchecked: None, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ReproductionSettings(**given)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        replace(ReproductionSettings(), **given)


def test_the_defaults_and_the_presets_are_settings() -> None:
    for preset in PRESETS.values():
        assert replace(preset.settings) == preset.settings
    assert ReproductionSettings().controls == {"readout": (0.8,), "bypass": (0.1,)}


def test_controls_of_an_effect_that_is_not_swept_are_left_out() -> None:
    assert ReproductionSettings(effects=("bypass",)).controls == {"bypass": (0.1,)}
    assert ReproductionSettings(control_alphas={"readout": (), "bypass": (0.1,)}).controls == {"bypass": (0.1,)}


def test_arrays_and_numpys_numbers_are_kept_as_plain_python(unchecked: None) -> None:
    given: Any = {
        "alphas": np.array([0.1, 0.5, 0.8]),
        "effects": pd.Series(["readout", "bypass"], index=[3, 1]),
        "generate_alphas": pd.Series([0.8]),
        "control_alphas": {"readout": np.array([0.1, 0.8]), "bypass": np.array([])},
        "control_seeds": np.arange(2),
        "limit": np.int64(5),
        "seed": np.int32(3),
    }
    plain = ReproductionSettings(
        alphas=(0.1, 0.5, 0.8),
        generate_alphas=(0.8,),
        control_alphas={"readout": (0.1, 0.8), "bypass": ()},
        control_seeds=(0, 1),
        limit=5,
        seed=3,
    )
    made = ReproductionSettings(**given)
    assert made == plain
    assert made.controls == {"readout": (0.1, 0.8)}
    assert json.dumps(asdict(made)) == json.dumps(asdict(plain))
