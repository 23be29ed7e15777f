"""The shift of the next-token distribution, against the formula written out."""

import numpy as np
import pytest

import lacscope
from lacscope.analyses.effects import next_token_shift
from lacscope.dataset import TraceError


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
