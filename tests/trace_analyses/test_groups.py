"""Groups of tokens: each token's name, and the order of the names."""

import json

import numpy as np
import pytest
import xarray as xr

from lacscope.testing import synthetic_trace
from lacscope.trace_analyses._groups import (
    group_names,
    groups_by_class,
    groups_by_correct,
    groups_by_position,
    groups_by_surprisal,
)
from lacscope.trace_analyses._phases import POSITION_EDGES
from lacscope.trace_analyses._tokens import CLASSES, token_classes
from lacscope.traces._joining import stack_rules
from lacscope.traces._schema import TraceError

pytestmark = pytest.mark.once


def with_surprisal(trace: xr.Dataset, values: list[float]) -> xr.Dataset:
    """The values for the first tokens of every sample, 0.3 nats for the rest."""
    surprisal = np.full(trace["valid"].shape, 0.3)
    surprisal[:, : len(values)] = values
    trace["surprisal"] = trace["valid"].copy(data=surprisal)
    return trace


def test_classes_are_those_of_the_tokens(trace_fixture: xr.Dataset) -> None:
    groups = groups_by_class(trace_fixture)
    np.testing.assert_array_equal(groups.values, token_classes(trace_fixture).values)
    assert group_names(groups) == list(CLASSES)


def test_every_position_is_in_the_bin_that_names_it() -> None:
    trace = synthetic_trace(2, 4, 300, 9)
    names = groups_by_position(trace).values[0]
    for position, name in enumerate(names[trace["valid"].values[0]]):
        first, _, last = name.partition("-")
        assert int(first) <= position <= int(last or first)
    assert names[[0, 1, 5, 70, 300]].tolist() == ["0", "1", "4-5", "64-95", "256-383"]


def test_the_last_position_bin_is_open_and_padding_is_in_none(trace_fixture: xr.Dataset) -> None:
    groups = groups_by_position(trace_fixture, (2, 9))
    valid = trace_fixture["valid"].values
    assert group_names(groups) == ["0-1", "2-8", "9+"]
    assert (groups.values[~valid] == "").all()
    assert not valid.all()
    assert set(groups.values[valid]) == {"0-1", "2-8", "9+"}
    assert len(group_names(groups_by_position(trace_fixture))) == len(POSITION_EDGES) + 1


def test_surprisal_bins_by_hand(trace_fixture: xr.Dataset) -> None:
    trace = with_surprisal(trace_fixture, [np.nan, 0.0, 0.1, 0.49, 0.5, 40.0])
    groups = groups_by_surprisal(trace, (0.1, 0.5))
    expected = ["", "< 0.1", "0.1 to 0.5", "0.1 to 0.5", ">= 0.5", ">= 0.5", "0.1 to 0.5"]
    assert groups.values[0, :7].tolist() == expected
    assert (groups.values[~trace["valid"].values] == "").all()
    assert group_names(groups) == ["< 0.1", "0.1 to 0.5", ">= 0.5"]


@pytest.mark.parametrize("kind", [list, np.array])
def test_right_and_wrong_answers(trace_fixture: xr.Dataset, kind: type) -> None:
    groups = groups_by_correct(trace_fixture, kind([False, True, False]))
    for row, name in enumerate(["answer wrong", "answer right", "answer wrong"]):
        own = trace_fixture["valid"].values[row]
        assert set(groups.values[row, own]) == {name}
        assert set(groups.values[row, ~own]) <= {""}


def test_names_without_an_order_are_sorted_and_one_outside_it_is_refused(trace_fixture: xr.Dataset) -> None:
    groups = groups_by_correct(trace_fixture, [False, True, False])
    unordered = groups.assign_attrs(groups.attrs)
    del unordered.attrs["groups"]
    assert group_names(unordered) == ["answer right", "answer wrong"]
    with pytest.raises(
        ValueError, match=r"^a token's group is 'answer wrong', and the attribute 'groups' lists answer right"
    ):
        group_names(groups.assign_attrs(groups=json.dumps(["answer right"])))


@pytest.mark.usefixtures("unchecked")
def test_what_is_refused(trace_fixture: xr.Dataset) -> None:
    with pytest.raises(TraceError, match=r"no surprisal to group tokens by: trace again with measures="):
        groups_by_surprisal(trace_fixture)
    for edges in ((), (0, 2), (3, 3), (4, 2)):
        with pytest.raises(ValueError, match=r"^edges must be ascending numbers above 0, got \["):
            groups_by_position(trace_fixture, edges)
    for correct in ([True, False], [1, 0, 1]):
        with pytest.raises(ValueError, match=r"^correct must be 3 bools, one for each sample of the trace; got "):
            groups_by_correct(trace_fixture, correct)
    stacked = stack_rules([synthetic_trace(3), synthetic_trace(3, seed=1)], ['"one"', '"two"'])
    for make in (groups_by_position, groups_by_class):
        with pytest.raises(TraceError, match=r"each rule of this trace has tokens of its own"):
            make(stacked)
