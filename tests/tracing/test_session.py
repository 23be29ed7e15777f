"""halting_hooks, the rule protocol under it, and that nothing is left behind."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers import PROMPTS, left_padded, rows_of, shared_model, unchanged

from lacscope import (
    FixedLayers,
    L2AdaptiveComputation,
    NonFiniteStreamError,
    PartialPassError,
    Recorder,
    halting,
    halting_hooks,
    trace,
)

RULE = L2AdaptiveComputation(0.6)
IDS = torch.tensor([PROMPTS[0]])


@dataclass(frozen=True)
class DecodeOnly:
    """Voids at one layer, for generated tokens alone."""

    layer: int = 2
    decides: ClassVar[str] = "before"
    needs: ClassVar[frozenset[str]] = frozenset({"phase"})
    unit: str = "block"

    def voids(self, view, pass_state, run_state):
        assert view.resid_post is None
        assert view.resid_post_norm is None
        assert view.position is None, "only what is needed is given"
        return view.decode & (view.layer == self.layer)


@dataclass(frozen=True)
class Watching:
    """No voids; keeps what it was shown."""

    decides: ClassVar[str] = "after"
    needs: ClassVar[frozenset[str]] = frozenset({"phase", "position", "valid"})
    unit: str = "block"
    seen: list[Any] = field(default_factory=list, compare=False)

    def voids(self, view, pass_state, run_state):
        pass_state["layers"] = pass_state.get("layers", 0) + 1
        assert pass_state["layers"] == view.layer + 1, "pass_state lives for one pass"
        run_state["calls"] = run_state.get("calls", 0) + 1
        if view.layer == 0:
            self.seen.append((view.decode.tolist(), view.position.tolist(), view.valid.tolist(), run_state["calls"]))
        return torch.zeros(view.shape, dtype=torch.bool)


@dataclass(frozen=True)
class Broken:
    """Answers with whatever it is told to."""

    answer: Any = None
    decides: ClassVar[str] = "after"
    needs: ClassVar[frozenset[str]] = frozenset()
    unit: str = "block"

    def voids(self, view, pass_state, run_state):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer(view)


# --- plain hooks ----------------------------------------------------------------------------------------


def test_hooks_are_pairs_of_a_name_of_the_model_and_a_function():
    model = shared_model()
    pairs = halting_hooks(model, RULE, "bypass")
    assert [name for name, _ in pairs] == [
        f"blocks.{layer}.{point}" for layer in range(4) for point in ("hook_resid_pre", "hook_resid_post")
    ]


def test_plain_hooks_record_each_pass_as_a_run():
    model, recorder = shared_model(), Recorder()
    hooks = halting_hooks(model, RULE, "observe", recorder=recorder)
    model.run_with_hooks(IDS, fwd_hooks=hooks)
    model.run_with_hooks(IDS[:, :4], fwd_hooks=hooks)
    first, second = recorder.runs
    expected = trace(model, [PROMPTS[0]], rule=RULE)
    np.testing.assert_array_equal(first.void.values, expected.void.values)
    np.testing.assert_allclose(first.delta_norm.values, expected.delta_norm.values, atol=1e-6)
    assert (first.token_id == -1).all(), "plain hooks do not see the tokens"
    assert second.sizes["token"] == 4


def test_plain_hooks_work_by_every_way_to_register_them():
    model = shared_model()
    expected = model.run_with_hooks(IDS, fwd_hooks=halting_hooks(model, FixedLayers([1]), "bypass"))
    with unchanged(model):
        with model.hooks(fwd_hooks=halting_hooks(model, FixedLayers([1]), "bypass")):
            assert torch.equal(model(IDS), expected)
        for name, fn in halting_hooks(model, FixedLayers([1]), "bypass"):
            model.add_hook(name, fn)
        assert torch.equal(model(IDS), expected)
        model.reset_hooks()


def test_plain_hooks_serve_generation_pass_by_pass():
    model = shared_model()
    with model.hooks(fwd_hooks=halting_hooks(model, RULE, "bypass")):
        plain = model.generate(IDS, max_new_tokens=5, do_sample=False, verbose=False, return_type="tokens")
    with halting(model, RULE, "bypass"):
        expected = model.generate(IDS, max_new_tokens=5, do_sample=False, verbose=False, return_type="tokens")
    assert torch.equal(plain, expected)


def test_observing_without_a_recorder_is_refused():
    with pytest.raises(ValueError, match=r"without a recorder does nothing. Pass recorder=lacscope.Recorder\(\)"):
        halting_hooks(shared_model(), RULE, "observe")


@pytest.mark.parametrize("rule", [DecodeOnly(), Watching()])
def test_a_rule_that_needs_phase_or_padding_is_sent_to_halting(rule):
    with pytest.raises(ValueError, match=r"phase.*which plain hooks cannot see. Use `with lacscope.halting\("):
        halting_hooks(shared_model(), rule, "bypass")


def test_an_effect_without_a_rule_and_an_unknown_effect_are_refused():
    with pytest.raises(ValueError, match="effect='bypass' needs a halting rule"):
        halting_hooks(shared_model(), None, "bypass")
    with pytest.raises(ValueError, match="needs a halting rule"), halting(shared_model(), None, "readout"):
        pass


@pytest.mark.parametrize("point", ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.3.hook_resid_pre"])
def test_a_nested_call_under_plain_hooks_is_an_error_in_words(point):
    model, calls = shared_model(), []

    def again(x, hook):
        if not calls:
            calls.append(1)
            model(IDS[:, :2])

    hooks = [*halting_hooks(model, RULE, "bypass"), (point, again)]
    with unchanged(model), pytest.raises(PartialPassError, match=r"called again from inside a hook; lacscope\.halting"):
        model.run_with_hooks(IDS, fwd_hooks=hooks)


def test_plain_hooks_are_good_again_after_a_pass_that_broke_off():
    model = shared_model()
    hooks = halting_hooks(model, RULE, "bypass")
    expected = model.run_with_hooks(IDS, fwd_hooks=hooks)

    def fail(x, hook):
        raise RuntimeError("the user's own")

    with unchanged(model), pytest.raises(RuntimeError, match="the user's own"):
        model.run_with_hooks(IDS, fwd_hooks=[*hooks, ("blocks.2.hook_resid_pre", fail)])
    assert torch.equal(model.run_with_hooks(IDS, fwd_hooks=hooks), expected)


def test_hooks_of_some_layers_only_are_an_error_in_words():
    model = shared_model()
    hooks = halting_hooks(model, RULE, "bypass")
    with pytest.raises(PartialPassError, match="block 1 fired before block 0"):
        model.run_with_hooks(IDS, fwd_hooks=hooks[2:])
    with pytest.raises(PartialPassError, match="block 2 fired where block 1 was due"):
        model.run_with_hooks(IDS, fwd_hooks=hooks[:2] + hooks[4:])


def test_plain_hooks_name_what_is_not_finite():
    def spoil(x, hook):
        x = x.clone()
        x[0, 3] = float("nan")
        return x

    model = shared_model()
    hooks = halting_hooks(model, RULE, "observe", recorder=Recorder())
    with pytest.raises(NonFiniteStreamError, match=r"entering layer 2 .* token 3 "):
        model.run_with_hooks(IDS, fwd_hooks=[("blocks.2.hook_resid_pre", spoil), *hooks])


# --- the rule protocol ----------------------------------------------------------------------------------


def test_a_rule_of_ones_own_that_needs_the_phase():
    """A phase-scoped rule: the prompt is read by the whole model, the answer without layer 2."""
    model = shared_model()
    traced = trace(model, PROMPTS, rule=DecodeOnly(2), effect="bypass", max_new_tokens=5, logits="all")
    full = trace(model, PROMPTS, logits="last")
    for sample, prompt in enumerate(PROMPTS):
        rows = rows_of(traced, sample)
        decode = rows.phase.values == "decode"
        assert (rows.void.values[2] == decode).all()
        assert not rows.void.values[[0, 1, 3]].any()
        # The first token comes from an unchanged prompt.
        assert rows.next_token_id.values[len(prompt) - 1] == full.logits.values[sample].argmax()


def test_the_two_phases_really_differ_under_a_phase_scoped_rule():
    """Against the plain model: whole prompt, then one cached step with layer 2 taken out."""
    from helpers import layers_of

    from lacscope.testing import tiny_transformers_model

    plain = tiny_transformers_model()
    with torch.no_grad():
        output = plain(IDS, use_cache=True)
        token = output.logits[0, -1].argmax()
        layer = layers_of(plain)[2]
        inner = layer.forward

        def skip(hidden, *args, **kwargs):
            inner(hidden, *args, **kwargs)  # its keys and values stay visible
            return hidden

        layer.forward = skip
        expected = plain(token[None, None], past_key_values=output.past_key_values, use_cache=True).logits[0, 0]
    traced = trace(shared_model(), [PROMPTS[0]], rule=DecodeOnly(2), effect="bypass", max_new_tokens=2, logits="all")
    assert traced.token_id.values[0, 7] == token
    assert (torch.as_tensor(traced.logits.values[0, 7]) - expected).abs().max() < 1e-5


def test_a_rule_sees_phase_position_and_padding_of_its_own_sample():
    rule = Watching()
    trace(shared_model(), [PROMPTS[2], PROMPTS[1]], rule=rule, max_new_tokens=3)
    (decode, position, valid, calls), (decode_1, position_1, valid_1, calls_1), *_ = rule.seen
    assert valid == [[False, False, True], [True] * 3]
    assert [row[-1] for row in position] == [0, 2]
    assert position[1] == [0, 1, 2]
    assert not any(flag for row in decode for flag in row)
    assert decode_1 == [[True], [True]]
    assert position_1 == [[1], [3]]
    assert valid_1 == [[True], [True]]
    assert (calls, calls_1) == (1, 5), "run_state lives from prefill to the last decode step"


def test_run_state_is_new_in_each_run_and_batch():
    rule = Watching()
    with halting(shared_model(), rule, "observe"):
        for _ in range(2):
            shared_model()(IDS)
    assert [calls for *_, calls in rule.seen] == [1, 1]
    rule = Watching()
    trace(shared_model(), PROMPTS, rule=rule, batch_size=2)
    assert [calls for *_, calls in rule.seen] == [1, 1]


def test_a_rule_that_needs_what_embeddings_do_not_tell_is_refused_in_words():
    model = shared_model()
    embedded = torch.randn(1, 3, 32)
    with (
        unchanged(model),
        halting(model, DecodeOnly(), "bypass"),
        pytest.raises(ValueError, match=r"needs phase, but the pass was started from embeddings.*attention_mask="),
    ):
        model.original_model(inputs_embeds=embedded)


def test_a_pass_from_embeddings_is_recorded_without_ids():
    model = shared_model()
    embedded = model.original_model.get_input_embeddings()(IDS).detach()
    with halting(model, RULE, "bypass") as recorder:
        model.original_model(inputs_embeds=embedded)
    expected = trace(model, [PROMPTS[0]], rule=RULE, effect="bypass")
    np.testing.assert_allclose(recorder.trace.delta_norm.values, expected.delta_norm.values, atol=1e-5)
    assert (recorder.trace.token_id == -1).all()


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda view: torch.zeros(view.shape), r"got torch.float32 \(1, 7\)"),
        (lambda view: torch.zeros(7, dtype=torch.bool), r"got torch.bool \(7,\)"),
        (lambda view: torch.zeros(1, 7, 1, dtype=torch.bool), r"got torch.bool \(1, 7, 1\)"),
        (lambda view: None, r"got NoneType"),
        (lambda view: np.zeros(view.shape, dtype=bool), r"got ndarray"),
    ],
)
def test_a_rule_that_answers_wrongly_is_told_so(answer, got):
    model = shared_model()
    for run in (
        lambda: trace(model, [PROMPTS[0]], rule=Broken(answer), effect="bypass"),
        lambda: model.run_with_hooks(IDS, fwd_hooks=halting_hooks(model, Broken(answer), "bypass")),
    ):
        with unchanged(model), pytest.raises(ValueError, match=rf"must return a bool tensor of shape \(1, 7\), {got}"):
            run()


def test_an_unknown_need_is_refused():
    @dataclass(frozen=True)
    class Greedy(DecodeOnly):
        needs: ClassVar[frozenset[str]] = frozenset({"phase", "mood"})

    with pytest.raises(ValueError, match=r"needs \['mood'\]; a rule may need phase, position, valid"):
        trace(shared_model(), [PROMPTS[0]], rule=Greedy())


def test_two_passes_under_readout_and_bypass_count_the_same_first_voids():
    """Up to a token's first void the streams agree, so the first void does."""
    read = rows_of(trace(shared_model(), [PROMPTS[0]], rule=RULE, effect="readout"), 0).void.values
    bypassed = rows_of(trace(shared_model(), [PROMPTS[0]], rule=RULE, effect="bypass"), 0).void.values
    first_token = 0  # its stream depends on no other token
    layer = int(np.argmax(read[:, first_token]))
    assert (read[: layer + 1, first_token] == bypassed[: layer + 1, first_token]).all()


# --- nothing is left behind -----------------------------------------------------------------------------


class Boom(Exception):
    pass


def raising(error):
    def hook(x, hook):
        raise error

    return hook


@pytest.mark.parametrize("error", [Boom("here"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
@pytest.mark.parametrize("point", ["blocks.0.hook_resid_pre", "blocks.2.hook_mlp_out", "blocks.3.hook_resid_post"])
def test_an_exception_in_a_users_hook_leaves_nothing_behind(error, point):
    model = shared_model()
    with unchanged(model), pytest.raises(type(error)):
        trace(model, PROMPTS, rule=RULE, effect="bypass", fwd_hooks=[(point, raising(error))])
    with unchanged(model), pytest.raises(type(error)), halting(model, RULE, "readout"):
        model.run_with_hooks(IDS, fwd_hooks=[(point, raising(error))])


@pytest.mark.parametrize("error", [Boom("here"), KeyboardInterrupt()])
def test_an_exception_in_a_rule_leaves_nothing_behind(error):
    model = shared_model()
    with unchanged(model), pytest.raises(type(error)):
        trace(model, PROMPTS, rule=Broken(error), effect="bypass")
    with unchanged(model), pytest.raises(type(error)), halting(model, Broken(error), "bypass"):
        model(IDS)


@pytest.mark.parametrize("error", [Boom("here"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["norm", "layer"])
def test_an_exception_in_the_model_leaves_nothing_behind(error, place):
    """Also where trace runs lean: the unhooked submodules go back."""
    model = shared_model()
    plain = model.original_model.model
    module = plain.norm if place == "norm" else plain.layers[2]
    inner = getattr(module, "original_component", module)
    kept = inner.forward

    def fail(*args, **kwargs):
        raise error

    inner.__dict__["forward"] = fail
    try:
        with unchanged(model), pytest.raises(type(error)):
            trace(model, PROMPTS, rule=RULE, effect="readout", max_new_tokens=3)
        with unchanged(model), pytest.raises(type(error)), halting(model, RULE, "readout"):
            model(IDS)
    finally:
        del inner.__dict__["forward"]
    assert inner.forward == kept
    assert trace(model, PROMPTS).sizes["sample"] == 4


def test_an_exception_in_the_users_progress_leaves_nothing_behind():
    model = shared_model()
    with unchanged(model), pytest.raises(Boom):
        trace(model, PROMPTS, batch_size=1, progress=lambda done, total: (_ for _ in ()).throw(Boom()))


def test_normal_use_leaves_nothing_behind():
    model = shared_model()
    with unchanged(model):
        trace(model, PROMPTS, rule=RULE, effect="readout", max_new_tokens=3, temperature=1.0)
        trace(model, PROMPTS, rule=RULE, fwd_hooks=[("blocks.1.hook_mlp_out", lambda x, hook: None)])
        trace(model, PROMPTS, rule=FixedLayers([1], "attn"), effect="bypass", measures=["mlp_out_norm"])
        with halting(model, RULE, "bypass"):
            model(IDS)
        with pytest.raises(Boom), halting(model, RULE, "bypass"):
            raise Boom


@pytest.mark.parametrize("grad", [True, False])
def test_the_callers_grad_mode_is_kept(grad):
    with torch.set_grad_enabled(grad):
        trace(shared_model(), [PROMPTS[0]], max_new_tokens=2)
        assert torch.is_grad_enabled() == grad
        assert not torch.is_inference_mode_enabled()


def test_contexts_may_close_in_any_order():
    model = shared_model()
    expected = model(IDS)
    with unchanged(model):
        outer, inner = halting(model, FixedLayers([1]), "bypass"), halting(model, FixedLayers([2]), "bypass")
        first, second = outer.__enter__(), inner.__enter__()
        model(IDS)
        outer.__exit__(None, None, None)
        only_inner = model(IDS)
        inner.__exit__(None, None, None)
        assert torch.equal(model(IDS), expected)
    assert (len(first.runs), len(second.runs)) == (1, 2)
    reference = model.run_with_hooks(IDS, fwd_hooks=halting_hooks(model, FixedLayers([2]), "bypass"))
    assert torch.equal(only_inner, reference)


def test_a_batch_with_its_mask_recorded_by_plain_hooks_counts_its_padding():
    """Plain hooks see no mask: documented, and shown here."""
    model, recorder = shared_model(), Recorder()
    ids, mask = left_padded(PROMPTS)
    hooks = halting_hooks(model, RULE, "observe", recorder=recorder)
    model.run_with_hooks(ids, attention_mask=mask, fwd_hooks=hooks)
    assert recorder.trace.valid.all()
