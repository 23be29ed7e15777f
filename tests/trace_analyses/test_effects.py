"""The shift of the next-token distribution, against the formula written out."""

import numpy as np
import pytest

import lacscope
from lacscope.testing import tiny_model
from lacscope.trace_analyses._effects import next_token_shift, token_shift
from lacscope.traces._schema import TraceError

pytestmark = pytest.mark.once


def traced(model, effect, **options):
    rule = None if effect == "observe" else lacscope.FixedLayers([1, 2])
    return lacscope.trace(model, [[5, 6, 7], [8, 9, 10, 11]], rule=rule, effect=effect, logits="last", **options)


def test_kl_and_agreement_against_loops(tiny):
    full, changed = traced(tiny, "observe"), traced(tiny, "bypass")
    shift = next_token_shift(full, changed)
    for sample in range(2):
        p = np.exp(full.logits.values[sample].astype(float))
        q = np.exp(changed.logits.values[sample].astype(float))
        p, q = p / p.sum(), q / q.sum()
        assert float(shift.kl[sample]) == pytest.approx(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)))
        assert bool(shift.same_token[sample]) == (p.argmax() == q.argmax())
    assert (shift.kl > 0).all()
    assert shift.attrs["effect"] == "bypass"


def test_no_shift_against_itself(tiny):
    full = traced(tiny, "observe")
    shift = next_token_shift(full, full)
    assert (shift.kl == 0).all()
    assert shift.same_token.all()


def test_refusals(tiny):
    full = traced(tiny, "observe")
    with pytest.raises(TraceError, match=r"make both traces with logits='last'"):
        next_token_shift(full, full.drop_vars("logits"))
    with pytest.raises(TraceError, match=r"of different samples"):
        next_token_shift(full, traced(tiny, "observe", sample_ids=[0, 5]))


@pytest.mark.parametrize(("shift", "logits"), [(next_token_shift, "last"), (token_shift, "all")])
def test_other_prompts_and_other_models_are_refused(tiny, shift, logits):
    def one(model, prompts):
        return lacscope.trace(model, prompts, logits=logits, max_new_tokens=2)

    full = one(tiny, [[5, 6, 7], [8, 9, 10, 11]])
    with pytest.raises(TraceError, match=r"sample 1 has different prompts in the two traces: give both the same"):
        shift(full, one(tiny, [[5, 6, 7], [8, 9, 10, 12]]))
    with pytest.raises(TraceError, match=r"different models, tiny-llama and tiny-gpt_neox: trace one model twice"):
        shift(full, one(tiny_model("gpt_neox"), [[5, 6, 7], [8, 9, 10, 11]]))


def test_answers_may_differ_after_the_same_prompts(tiny):
    full, longer = (traced(tiny, "observe", max_new_tokens=n) for n in (1, 4))
    assert full.sizes["token"] != longer.sizes["token"]
    assert (next_token_shift(full, longer).kl < 1e-5).all()


# --- after every token ----------------------------------------------------------------------------------


def traced_throughout(model, effect, tokens=((5, 6, 7), (8, 9, 10, 11))):
    rule = None if effect == "observe" else lacscope.FixedLayers([1, 2])
    return lacscope.trace(model, [list(row) for row in tokens], rule=rule, effect=effect, logits="all")


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_the_shift_after_every_token_is_that_of_the_prompt_which_ends_there(architecture):
    model = tiny_model(architecture)
    shift = token_shift(traced_throughout(model, "observe"), traced_throughout(model, "bypass"))
    assert shift["kl"].dims == ("sample", "token")
    assert np.isnan(shift["kl"].values[0, 3])
    assert np.isnan(shift["same_token"].values[0, 3])
    for sample, row in enumerate(([5, 6, 7], [8, 9, 10, 11])):
        for end in range(1, len(row) + 1):
            pair = [
                lacscope.trace(model, [row[:end]], rule=rule, effect=effect, logits="last")
                for rule, effect in ((None, "observe"), (lacscope.FixedLayers([1, 2]), "bypass"))
            ]
            alone = next_token_shift(*pair)
            assert float(shift["kl"][sample, end - 1]) == pytest.approx(float(alone["kl"][0]), rel=1e-3, abs=1e-6)
            assert float(shift["same_token"][sample, end - 1]) == float(alone["same_token"][0])


def test_no_token_shifts_against_itself(tiny):
    full = traced_throughout(tiny, "observe")
    shift = token_shift(full, full)
    valid = full["valid"].values
    assert (shift["kl"].values[valid] == 0).all()
    assert (shift["same_token"].values[valid] == 1).all()
    assert shift.attrs["effect"] == "observe"


def test_refusals_of_the_shift_after_every_token(tiny):
    full = traced_throughout(tiny, "observe")
    with pytest.raises(TraceError, match=r"^this compares the logits of every position: .* with logits='all'\.$"):
        token_shift(full, traced(tiny, "observe"))
    answered = [lacscope.trace(tiny, [[5, 6, 7]], responses=[answer], logits="all") for answer in ([20, 21], [20, 22])]
    with pytest.raises(TraceError, match=r"^the two traces read different tokens: give both the same responses="):
        token_shift(*answered)
