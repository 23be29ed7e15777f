"""Do norms tell the right answer? Choices as candidate answers, ranked by the signals of The Tell-Tale Norm."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from lacscope.analyses.norm_choices import share_right
from lacscope.analyses.tell_tale import norm_signals, norm_thresholds
from lacscope.analyze.analysis import Part, each
from lacscope.analyze.prompts import Prompts
from lacscope.run import trace
from lacscope.stacking import join_traces

CALIBRATION = 4  # every fourth question
SEED = 0  # of the bootstrap
TELL_TALE = MappingProxyType({"calibrated_on": f"1 of {CALIBRATION}", "seed": SEED})
_MOST_CHOICES = 1000


def candidates(model: Any, prompts: Prompts) -> list[Part]:
    """Traces of every choice of a few questions each, as candidate answers; ``right`` and ``question`` of each."""
    return each(_candidates)(model, prompts)


def _candidates(model: Any, prompts: Prompts, first: int) -> xr.Dataset:
    rows = [(place, one) for place, question in enumerate(prompts.questions) for one in range(len(question.choices))]
    inputs = [list(prompts.inputs[place]) for place, _ in rows]
    choices = [prompts.questions[place].choices[one] for place, one in rows]
    # A number of its own for each, whatever the part.
    numbers = [(first + place) * _MOST_CHOICES + one for place, one in rows]
    read = trace(model, inputs, responses=choices, sample_ids=numbers)
    right = [one == prompts.questions[place].target for place, one in rows]
    read["right"] = ("sample", np.array(right))
    read["question"] = ("sample", np.array([first + place for place, _ in rows]))
    return read.assign_attrs(data=f"{prompts.name}, each choice as an answer")


def right_by_norms(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """How often the right choice has the largest norm signal; thresholds from every fourth question's choices."""
    read = join_traces(parts)
    calibrating = read["question"].values % CALIBRATION == 0
    thresholds = norm_thresholds(read.isel(sample=calibrating))
    asked = read.isel(sample=~calibrating)
    signals = norm_signals(asked, thresholds, data=read.attrs["data"])
    return share_right(signals, asked["right"].values, asked["question"].values.tolist(), seed=SEED)
