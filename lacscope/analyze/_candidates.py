"""Do norms tell the right answer? Choices as candidate answers, ranked by the signals of The Tell-Tale Norm."""

from collections.abc import Sequence
from functools import partial
from types import MappingProxyType

import numpy as np
import xarray as xr

from lacscope.analyze._analysis import Part, each
from lacscope.analyze._prompts import CALIBRATION, Prompts
from lacscope.models._model import Model
from lacscope.trace_analyses._norm_choices import share_right
from lacscope.trace_analyses._tell_tale import norm_signals, norm_thresholds
from lacscope.traces._joining import join_traces
from lacscope.tracing._run import trace

BOOTSTRAP_SEED = 0
TELL_TALE_SETTINGS = MappingProxyType({"calibrated_on": f"1 of {CALIBRATION}", "seed": BOOTSTRAP_SEED})
_MOST_CHOICES = 1000


def candidates(model: Model, prompts: Prompts) -> list[Part]:
    """Traces of every choice of a few questions each, as candidate answers.

    Each with ``right``, its ``question``, and whether the thresholds are ``calibrated`` on it.
    """
    calibration, asked = prompts.apart(CALIBRATION)
    others = partial(_candidates, calibrated=False, earlier=len(calibration))
    return each(partial(_candidates, calibrated=True))(model, calibration) + each(others)(model, asked)


def _candidates(model: Model, prompts: Prompts, start: int, *, calibrated: bool, earlier: int = 0) -> xr.Dataset:
    first = earlier + start
    rows = [(place, one) for place, question in enumerate(prompts.questions) for one in range(len(question.choices))]
    inputs = [list(prompts.inputs[place]) for place, _ in rows]
    choices = [prompts.questions[place].choices[one] for place, one in rows]
    # A number of its own for each, whatever the part.
    numbers = [(first + place) * _MOST_CHOICES + one for place, one in rows]
    read = trace(model, inputs, responses=choices, sample_ids=numbers)
    right = [one == prompts.questions[place].target for place, one in rows]
    read["right"] = ("sample", np.array(right))
    read["question"] = ("sample", np.array([first + place for place, _ in rows]))
    read["calibrated"] = ("sample", np.full(len(rows), calibrated))
    return read.assign_attrs(data=f"{prompts.name}, each choice as an answer")


def right_by_norms(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """How often the right choice has the largest norm signal; thresholds from the choices of other questions."""
    read = join_traces(parts)
    calibrated = read["calibrated"].values
    thresholds = norm_thresholds(read.isel(sample=calibrated))
    asked = read.isel(sample=~calibrated)
    signals = norm_signals(asked, thresholds, data=read.attrs["data"])
    found = share_right(signals, asked["right"].values, asked["question"].values.tolist(), seed=BOOTSTRAP_SEED)
    n = len(set(read["question"].values[calibrated].tolist()))
    return found.assign_attrs(positions=f"{found.attrs['positions']}; thresholds from {n} other questions")
