"""Nothing of ours stays on a model or in the process, at whichever line an exception comes."""

import copy
import functools
import gc
import io
import os
import pickle
import random
import signal
import sys
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch

import lacscope
from lacscope import FixedLayers, Plan, trace
from lacscope.guards._temporary import Note, Temporary, open_changes
from lacscope.models.adapters import adapt
from lacscope.models.adapters import registered as registered_hooks
from lacscope.testing import tiny_model

from fault_harness import (  # isort: skip
    JOBS,
    PROMPTS,
    RULE,
    AtLine,
    Boom,
    changed,
    faults_of,
    lines_of,
    state_of,
)


@pytest.fixture(autouse=True)
def quiet(unchecked: None) -> Iterator[None]:
    """An exception that hits a finaliser is told to a hook of Python's, and not raised: part of what is tried here.

    Unchecked: the type checks draw random numbers.
    """
    before, sys.unraisablehook = sys.unraisablehook, lambda _: None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    sys.unraisablehook = before


ALONE = "the wrapped model alone"


def look(model: Any) -> bytes:
    """The numbers of a trace on the bridge, to the last bit.

    Without a hook the wrapped model runs alone, with the bits of one that no fault has met. A fault in the check that
    compares the two leaves a model on the bridge, whose attention sums in another order.
    """
    alone = numbers(model, [])
    if alone.attrs["ran_on"] == ALONE:
        assert alone.values.tobytes() == untouched(adapt(model).n_layers)
    return bytes(numbers(model, [("blocks.0.hook_resid_pre", lambda stream, hook: None)]).values.tobytes())


def numbers(model: Any, hooks: list[Any]) -> Any:
    found = trace(model, PROMPTS[:1], rule=RULE, effect="readout", fwd_hooks=hooks)
    return found.resid_post_norm.assign_attrs(found.attrs)


@functools.cache
def untouched(n_layers: int) -> bytes:
    found = numbers(tiny_model("llama", n_layers=n_layers), [])
    assert found.attrs["ran_on"] == ALONE
    return bytes(found.values.tobytes())


def run_faults(n_faults: int, jobs: Collection[str], seed: int) -> tuple[int, list[Any]]:
    """How many exceptions were raised at lines of ours, and those after which something was not as it was at once."""
    model = tiny_model("llama", n_layers=3)
    for name in jobs:
        JOBS[name](model)
    faults = faults_of(lines_of(model, jobs))
    random.Random(seed).shuffle(faults)
    right, before, raised, wrong = look(model), state_of(model), 0, []
    for name, line, nth, error in faults[:n_faults]:
        fault = AtLine(line, nth, error)
        fault.run(JOBS[name], model)
        raised += fault.raised
        left = changed(model, before)
        if left or look(model) != right:
            wrong.append((name, line, nth, error.__name__, left))
            lacscope.restore(model)
    return raised, wrong


def test_a_sample_of_lines() -> None:
    raised, wrong = run_faults(40, ("hooked", "halting"), seed=1)
    assert raised > 30
    assert not wrong


@pytest.mark.once
@pytest.mark.slow
def test_five_hundred_exceptions_at_our_own_lines() -> None:
    raised, wrong = run_faults(640, JOBS, seed=0)
    assert raised >= 500
    assert not wrong


@pytest.mark.slow
def test_real_interrupts_at_random_moments() -> None:
    model = tiny_model("llama", n_layers=3)
    for job in JOBS.values():
        job(model)
    right, before, rng, hits, wrong, armed = look(model), state_of(model), random.Random(0), 0, [], False

    def interrupt(number: int, frame: Any) -> None:
        if armed:
            raise KeyboardInterrupt

    handler = signal.signal(signal.SIGINT, interrupt)
    try:
        while hits < 120:
            name = rng.choice(list(JOBS))
            timer = threading.Timer(rng.uniform(0.0, 0.08), os.kill, (os.getpid(), signal.SIGINT))
            try:
                armed = True
                timer.start()
                JOBS[name](model)
                armed = False
            except KeyboardInterrupt:
                armed = False
                hits += 1
            timer.join()
            left = changed(model, before)
            if (left and (look(model), changed(model, before))[1]) or look(model) != right:
                wrong.append((name, left))
                lacscope.restore(model)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt])
def test_users_hooks_that_raise_at_every_point(error: type[BaseException]) -> None:
    def fail(activation: Any, hook: Any) -> None:
        raise error("here")

    model = tiny_model("llama", n_layers=3)
    right, before, raised = look(model), state_of(model), 0
    # TransformerLens refuses hooks at these until a flag of its own is set.
    flagged = ("hook_mlp_in", "hook_attn_in", "_input", "hook_result")
    for name in [name for name in model.hook_dict if not name.endswith(flagged)]:
        for effect in ("readout", "bypass"):
            try:
                trace(model, PROMPTS, rule=RULE, effect=effect, fwd_hooks=[(name, fail)])
            except error:
                raised += 1
            assert not changed(model, before), name
    assert raised > 40
    assert look(model) == right


# --- where an exit is interrupted -----------------------------------------------------------------------------


def interrupted(entered: Temporary[Any]) -> None:
    """A context whose exit never begins: what Ctrl-C at its first instruction comes to."""
    frame = AtLine((Temporary.__exit__.__code__.co_filename, Temporary.__exit__.__code__.co_firstlineno + 2))
    sys.settrace(frame)
    try:
        with entered:
            pass
    finally:
        sys.settrace(None)


def test_an_interrupted_exit_is_finished_by_the_next_entry_though_a_traceback_is_kept() -> None:
    model = tiny_model("llama", n_layers=3)
    right, before = look(model), state_of(model)
    with pytest.raises(KeyboardInterrupt) as kept:
        interrupted(lacscope.halting(model, RULE, "bypass"))
    assert changed(model, before), "the fault has to leave something, or this test shows nothing"
    assert kept.value.__traceback__ is not None
    assert look(model) == right
    assert not changed(model, before)


def test_an_interrupted_exit_is_finished_as_soon_as_its_context_is_dropped() -> None:
    model = tiny_model("llama", n_layers=3)
    look(model)
    before = state_of(model)
    with suppress(KeyboardInterrupt):
        interrupted(lacscope.plan(model, Plan.skip(3, [1])))
    assert not changed(model, before)
    assert not open_changes()


def test_the_undo_is_noted_before_the_change_and_may_run_twice() -> None:
    model = tiny_model("llama", n_layers=2)
    point = adapt(model).hook_point("blocks.1.hook_resid_post")
    point.add_hook(lambda x, hook: None)
    users = point.fwd_hooks[0]
    torch_add = point.register_forward_hook

    def stop(*args: Any, **kwargs: Any) -> None:
        torch_add(*args, **kwargs)
        raise KeyboardInterrupt  # PyTorch has the hook, and the point no handle yet

    object.__setattr__(point, "register_forward_hook", stop)
    with pytest.raises(KeyboardInterrupt), registered_hooks([(point, lambda x, hook: x * 0)]):
        pass
    object.__delattr__(point, "register_forward_hook")
    assert list(point._forward_hooks) == [users.hook.id]
    assert len(point.fwd_hooks) == 1


def test_changes_are_undone_in_reverse_also_where_an_undo_is_interrupted() -> None:
    done: list[str] = []

    def undo(name: str) -> None:
        done.append(name)
        if done == ["c", "b"]:
            raise KeyboardInterrupt

    def make(note: Note) -> None:
        for name in ("a", "b", "c"):
            note("letter", undo, name)

    with pytest.raises(KeyboardInterrupt), Temporary(make):
        pass
    assert done == ["c", "b", "b", "a"]
    assert not open_changes()


# --- by hand --------------------------------------------------------------------------------------------------


def test_restore_says_and_takes_off_what_there_is() -> None:
    model = tiny_model("llama", n_layers=3)
    right, before = look(model), state_of(model)
    assert lacscope.restore(model) == {}
    with lacscope.halting(model, FixedLayers([1]), "bypass") as recorder:
        found = lacscope.restore(model)
        assert found == {"function around forward": 1, "hook": 6}
        assert not changed(model, before)
        model(torch.tensor(PROMPTS[:1]))
        assert not recorder.runs
    assert not changed(model, before)
    assert look(model) == right
    with pytest.raises(TypeError, match="expected a TransformerLens"):
        lacscope.restore(3)


def test_restore_leaves_what_is_anothers() -> None:
    one, other = tiny_model("llama", n_layers=2), tiny_model("gpt2", n_layers=2)
    with lacscope.halting(one, FixedLayers([1]), "bypass") as recorder:
        assert lacscope.restore(other) == {}
        one(torch.tensor(PROMPTS[:1]))
    assert len(recorder.runs) == 1


# --- copies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["halting", "plan", "trace"])
def test_a_copy_inside_a_context_is_refused(kind: str) -> None:
    model = tiny_model("llama", n_layers=2)
    look(model)
    before = state_of(model)

    def attempt(*_: Any, **__: Any) -> None:
        for one in (model, model.original_model):
            with pytest.raises(RuntimeError, match=r"inside a lacscope context .*a copy would keep"):
                copy.deepcopy(one)
            for written in (pickle.dumps, lambda model: torch.save(model, io.BytesIO())):
                # TransformerLens's own hooks, which cannot be pickled, may come first.
                with pytest.raises((RuntimeError, AttributeError), match=r"inside a lacscope context|Can't pickle"):
                    written(one)

    if kind == "halting":
        with lacscope.halting(model, RULE, "readout"):
            attempt()
    elif kind == "plan":
        with lacscope.plan(model, Plan.skip(2, [1])):
            attempt()
    else:
        trace(model, PROMPTS[:1], fwd_hooks=[("blocks.0.hook_resid_post", attempt)])
    assert not changed(model, before)


def test_a_copy_after_a_context_is_a_plain_model() -> None:
    model = tiny_model("llama", n_layers=2)
    with lacscope.halting(model, FixedLayers([1]), "bypass"):
        model(torch.tensor(PROMPTS[:1]))
    twin = copy.deepcopy(model)
    gc.collect()
    assert look(twin) == look(model)
