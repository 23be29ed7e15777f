"""The least used layers of a trace as a plan."""

import numpy as np
import pytest
import torch
from helpers import PROMPTS, shared_model

from lacscope import FixedLayers, layer_usage, trace, voids
from lacscope.plans import Plan, freeze, plan
from lacscope.testing import synthetic_trace


def with_deltas(deltas, phases=None):
    """A trace of one sample with these deltas [layer, token]."""
    made = synthetic_trace(1, len(deltas), len(deltas[0]), 2)
    values = made["delta_norm"].values.copy()
    values[0, :, : len(deltas[0])] = deltas
    return made.assign(delta_norm=made["delta_norm"].copy(data=values))


# Voids at alpha 0 are the falling layers: usage of the two prefill tokens is 1, .5, 0, .5, 0, 1.
FALLING = with_deltas([[1, 1], [1, -1], [-1, -1], [-1, 1], [-1, -1], [1, 1]])


@pytest.mark.parametrize(
    ("options", "skipped"),
    [
        ({"skip": 0}, []),
        ({"skip": 1}, [4]),
        ({"skip": 2}, [2, 4]),
        ({"skip": 3}, [2, 3, 4]),
        ({"skip": 4}, [1, 2, 3, 4]),
        ({"skip": 2, "protect": (0, 4)}, [2, 3]),
        ({"skip": 6, "protect": ()}, None),
        ({"min_usage": 0.5}, [2, 4]),
        ({"min_usage": 0.6}, [1, 2, 3, 4]),
        ({"min_usage": 1, "protect": (0, -2)}, [1, 2, 3]),
        ({"min_usage": 0.0}, []),
    ],
)
def test_by_hand(options, skipped):
    """The least used first; of equals the deeper."""
    if skipped is None:
        with pytest.raises(ValueError, match="at least one block"):
            freeze(FALLING, alpha=0, **options)
        return
    assert freeze(FALLING, alpha=0, **options) == Plan.skip(6, skipped)


@pytest.mark.parametrize("phase", ["prefill", "decode", "all"])
def test_it_counts_the_usage_of_its_phase(phase):
    given = synthetic_trace()
    usage = layer_usage(given, voids(given, 0.8), "all" if phase == "all" else "phase")
    share = (usage if phase == "all" else usage.sel(phase=phase)).values
    kept = share.copy()
    kept[[0, -1]] = np.inf
    found = freeze(given, alpha=0.8, phase=phase, skip=1)
    assert share[next(iter(found.skipped))] == kept.min()


REFUSED = {
    "both": ({"skip": 1, "min_usage": 0.5}, "one of the two; got skip=1, min_usage=0.5"),
    "neither": ({}, "one of the two"),
    "too many": ({"skip": 5}, r"skip must be 0 to 4 \(6 layers, 2 protected\); got 5"),
    "no share": ({"min_usage": 1.5}, "share of tokens, 0 to 1; got 1.5"),
    "no such layer": ({"skip": 1, "protect": (9,)}, r"protect has layers \[9\]; the trace has layers 0 to 5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_in_words(case):
    options, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        freeze(FALLING, alpha=0, **options)


def test_other_refusals(unchecked):
    with pytest.raises(ValueError, match=r"alpha must be one number, got \[0.1, 0.8\]"):
        freeze(FALLING, alpha=[0.1, 0.8], skip=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="phase must be 'prefill', 'decode' or 'all', got 'PP'"):
        freeze(FALLING, alpha=0, skip=1, phase="PP")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no decode tokens to count usage over"):
        freeze(synthetic_trace(decode_tokens=0), alpha=0, skip=1, phase="decode")


def test_numbers_that_are_none_are_refused(unchecked):
    with pytest.raises(ValueError, match=r"skip is a number of layers \(int\), got 1.5"):
        freeze(FALLING, alpha=0, skip=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min_usage is a share of tokens, 0 to 1; got True"):
        freeze(FALLING, alpha=0, min_usage=True)
    with pytest.raises(ValueError, match="min_usage is a share of tokens, 0 to 1; got 'half'"):
        freeze(FALLING, alpha=0, min_usage="half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="protect must be a list of block indices, got 0"):
        freeze(FALLING, alpha=0, skip=1, protect=0)  # type: ignore[arg-type]


def test_a_trace_of_several_rules_is_refused():
    rules = [FixedLayers([1]), FixedLayers([2])]
    found = trace(shared_model("llama"), PROMPTS, rule=rules, effect="readout")
    with pytest.raises(ValueError, match=r"the trace has 2 rules, each with norms of its own: freeze one, with .isel"):
        freeze(found, alpha=0.8, skip=1)
    assert freeze(found.isel(rule=0), alpha=0.8, skip=1).skipped
    observed = trace(shared_model("llama"), PROMPTS, rule=rules)  # one set of norms for all rules
    assert freeze(observed, alpha=0.8, skip=1) == freeze(trace(shared_model("llama"), PROMPTS), alpha=0.8, skip=1)


def test_a_trace_under_a_plan_is_refused():
    model = shared_model("llama")
    with plan(model, Plan.swap(4, 1)):
        found = trace(model, PROMPTS)
    with pytest.raises(ValueError, match=r"made under the plan .*0, 2, 1, 3.*freeze a trace of the model as it is"):
        freeze(found, alpha=0.8, skip=1)


def test_a_trace_of_bypassed_layers_is_refused():
    found = trace(shared_model("llama"), PROMPTS, rule=FixedLayers([1]), effect="bypass")
    with pytest.raises(ValueError, match=r"effect='bypass'.* skipped already: freeze a trace of the model as it is"):
        freeze(found, alpha=0.8, skip=1)
    read_out = trace(shared_model("llama"), PROMPTS, rule=FixedLayers([1]), effect="readout")
    assert freeze(read_out, alpha=0.8, skip=1) == freeze(trace(shared_model("llama"), PROMPTS), alpha=0.8, skip=1)


def test_frozen_layers_do_not_run_in_decode():
    model, ids = shared_model("llama"), torch.tensor([PROMPTS[0]])
    frozen = freeze(trace(model, [PROMPTS[0]]), alpha=0.8, skip=2)
    assert len(frozen.skipped) == 2
    assert not frozen.skipped & {0, 3}
    ran = []
    handles = [
        block.original_component.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(model.blocks)
    ]
    try:
        with plan(model, Plan.full(4), decode=frozen):
            model.generate(ids, max_new_tokens=3, do_sample=False, stop_at_eos=False, verbose=False)
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [0, 1, 2, 3, 0, 3, 0, 3]
