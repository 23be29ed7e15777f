"""One analysis of one model: made anew when, and only when, something that changes it differs."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from lacscope.analyze._analysis import Analysis
from lacscope.analyze._prompts import Prompts, PromptsError
from lacscope.analyze._run import analyze
from lacscope.analyze._store import ResultStore
from lacscope.tasks._base import Question

pytestmark = pytest.mark.once

QUESTIONS = (Question(0, "", "river", False, ("deep", "cold"), 0, "deep"),)
PROMPTS = Prompts("toy", ((1, 2),), ((3,),), QUESTIONS, ("pocket_boolean",))
NONE = object()


def counted(needs="prompts"):
    """An analysis of two parts, and the list of the parts that it has run."""
    ran = []

    def parts(model, prompts):
        def run(index):
            ran.append(index)
            return xr.Dataset({"v": ("row", np.arange(2) + 2 * index)})

        return [lambda so_far: run(0), lambda so_far: run(1)]

    return Analysis("count", "depth", "counts", needs, parts, lambda found: xr.concat(found, "row"), print), ran


@pytest.mark.parametrize(
    ("changes", "weights", "needs", "again"),
    [
        ({}, "w", "prompts", False),
        ({}, "other", "prompts", True),
        ({"name": "other"}, "w", "prompts", True),
        ({"inputs": ((1, 3),)}, "w", "prompts", True),
        ({"responses": ((4,),)}, "w", "prompts", True),
        ({"questions": (replace(QUESTIONS[0], choices=("deep", "wood")),)}, "w", "questions", True),
        ({"tasks": ("boolq",)}, "w", "questions", True),
        ({"questions": (replace(QUESTIONS[0], group="hard"),)}, "w", "prompts", True),
    ],
)
def test_only_what_changes_a_result_makes_it_anew(changes, weights, needs, again, tmp_path):
    analysis, ran = counted(needs)
    store = ResultStore(tmp_path)
    first = analyze(NONE, analysis, PROMPTS, store, weights="w")
    assert first["v"].values.tolist() == [0, 1, 2, 3]
    analyze(NONE, analysis, replace(PROMPTS, **changes), store, weights=weights)
    assert ran == ([0, 1, 0, 1] if again else [0, 1])


def test_other_versions_make_it_anew(tmp_path, monkeypatch):
    analysis, ran = counted()
    analyze(NONE, analysis, PROMPTS, ResultStore(tmp_path), weights="w")
    monkeypatch.setattr("lacscope.analyze._run.installed_versions", lambda: {"torch": "0"})
    analyze(NONE, analysis, PROMPTS, ResultStore(tmp_path), weights="w")
    assert ran == [0, 1, 0, 1]


def test_a_damaged_part_is_done_again(tmp_path):
    analysis, ran = counted()
    store = ResultStore(tmp_path)

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(NONE, analysis, PROMPTS, store, weights="w", progress=interrupt)
    first = sorted(tmp_path.rglob("part-*.nc"))[0]
    first.write_bytes(first.read_bytes()[:-7])
    found = analyze(NONE, analysis, PROMPTS, store, weights="w")
    assert ran == [0, 1, 0]
    assert found["v"].values.tolist() == [0, 1, 2, 3]


def test_prompts_that_lack_something_are_refused_before_any_work(tmp_path):
    analysis, ran = counted("answers")
    with pytest.raises(PromptsError, match="count: it needs answers after the prompts"):
        analyze(NONE, analysis, replace(PROMPTS, responses=None), ResultStore(tmp_path), weights="w")
    assert not ran
    assert not list(tmp_path.iterdir())
