"""A wrong argument of an analysis is refused in words that name it: never taken for another, never a bare exception."""

import inspect
from typing import Any

import numpy as np
import pytest
import xarray as xr

import lacscope
from lacscope import trace_analyses
from lacscope.testing import synthetic_trace
from lacscope.trace_analyses import cell_counts, groups_by_position, norm_signals, norm_thresholds

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("unchecked")]

WRONG = (None, "x", True, -1, 1.5, [], float("nan"), {}, "", [None], ["x"], [-1])
# What is right of these by intent.
RIGHT = {
    ("usage_by_alpha", "alphas"): (1.5,),
    ("holm", "p_values"): ([], [-1]),
    ("paired_bootstrap", "differences"): ([], [-1]),
    ("agreement", "drop"): ([], [-1]),
}
TEXTS = ("x", "")


def calls() -> dict[str, dict[str, Any]]:
    trace = synthetic_trace()
    drawn = np.random.default_rng(0)
    surprisal = np.abs(drawn.normal(size=(trace.sizes["sample"], trace.sizes["token"]))).astype(np.float32)
    trace["surprisal"] = (("sample", "token"), surprisal)
    trace["surprisal"] = trace["surprisal"].where(trace["valid"])
    n, layers = trace.sizes["sample"], trace["layer"].values
    void = lacscope.voids(trace, 0.8)
    thresholds = norm_thresholds(trace)
    signals = norm_signals(trace, thresholds)
    resampled = {"seed": 0, "n_bootstrap": 10, "level": 0.9}
    few = {"seed": 0, "n": 10, "confidence": 0.9}
    scores = {
        name: xr.DataArray(drawn.normal(size=(4, len(layers))), {"layer": layers}, ("sample", "layer"))
        for name in "abc"
    }
    norms = {"stream": "resid_post_norm", "sinks": "include"}
    return {
        "layer_usage": {"trace": trace, "voids": void, "by": "phase", "weight": "token", "sinks": "include"},
        "token_usage": {"trace": trace, "voids": void},
        "usage_by_alpha": {"trace": trace, "alphas": [0.1, 0.8], "weight": "token", "sinks": "include"},
        "mean_exit_depth": {"trace": trace, "voids": void},
        "skippable_compute": {"trace": trace, "voids": void, "by": "all"},
        "norm_profile": {"trace": trace},
        "groups_by_class": {"trace": trace},
        "groups_by_position": {"trace": trace, "edges": (1, 2, 4)},
        "groups_by_surprisal": {"trace": trace, "edges": (0.5, 1.0)},
        "groups_by_correct": {"trace": trace, "correct": [True] * n},
        "usage_by_group": {
            "trace": trace,
            "groups": groups_by_position(trace),
            "voids": void,
            "sinks": "apart",
            "phase": "all",
            "data": "",
            **resampled,
        },
        "cell_counts": {"trace": trace, "voids": void},
        "matched_difference": {
            "cells": cell_counts(trace, void),
            "n_layers": len(layers),
            "of": "usage",
            **resampled,
        },
        "norm_thresholds": {"calibration": trace, **norms},
        "norm_signals": {"trace": trace, "thresholds": thresholds, "late_share": 0.3, "data": "", **norms},
        "rank_candidates": {"signals": signals, "signal": "excess", "layers": "late", "questions": ["a"] * n},
        "share_right": {
            "signals": signals,
            "right": [True] + [False] * (n - 1),
            "questions": ["a"] * n,
            "layers": "late",
            **resampled,
        },
        "wilson_interval": {"k": 1, "n": 3, "confidence": 0.9},
        "holm": {"p_values": np.array([0.1, 0.2])},
        "mcnemar_exact": {"a_right": np.array([True, False]), "b_right": np.array([True, True])},
        "bootstrap_ratio": {"numerators": np.array([1.0, 2.0]), "denominators": np.array([2.0, 3.0]), **few},
        "paired_bootstrap": {"differences": np.array([1.0, 0.0, -1.0]), "groups": None, **few},
        "agreement": {
            "scores": scores,
            "drop": (0,),
            "n_boot": 5,
            "n_permutations": 5,
            "seed": 0,
            "confidence": 0.9,
            "model": "",
            "data": "",
        },
    }


@pytest.fixture(scope="module")
def right_calls() -> dict[str, dict[str, Any]]:
    return calls()


CASES = [(name, parameter) for name, given in calls().items() for parameter in given]


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_a_wrong_argument_is_refused_in_words(name: str, parameter: str, right_calls: dict[str, dict[str, Any]]):
    analysis, given = getattr(trace_analyses, name), right_calls[name]
    default = inspect.signature(analysis).parameters[parameter].default
    for wrong in WRONG:
        if any(wrong is right or wrong == right for right in (*RIGHT.get((name, parameter), ()), default)):
            continue
        if parameter in ("model", "data") and wrong in TEXTS:
            continue
        with pytest.raises((ValueError, lacscope.TraceError)) as refused:
            analysis(**{**given, parameter: wrong})
        assert len(str(refused.value)) > 20, wrong


def test_the_right_calls_are_right(right_calls: dict[str, dict[str, Any]]):
    for name, given in right_calls.items():
        getattr(trace_analyses, name)(**given)
