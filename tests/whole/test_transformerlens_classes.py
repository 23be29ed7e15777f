"""What TransformerLens's model classes do differently, and the hooks that hold it; on 4.x and on 3.9."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lacscope
from lacscope import FixedLayers, L2AdaptiveComputation, PaddingWarning, PartialPassError, RunWarning, halting, trace
from lacscope.models._checks import check_stream
from lacscope.models._facts import weight_processing
from lacscope.models.adapters import BridgeAdapter, PassInput, adapt, build_bridge, registered
from lacscope.models.adapters._passes import around
from lacscope.testing import ARCHITECTURES, tiny_model

LAC = L2AdaptiveComputation(0.5)
TOKENS = torch.tensor([[5, 9, 12, 7, 30, 8], [6, 11, 21, 13, 4, 3]])


# --- _around ------------------------------------------------------------------------------------------


class Owner(nn.Module):
    def forward(self, x: int) -> int:
        return x


def adding(owner: Owner, amount: int) -> AbstractContextManager[None]:
    return around(owner, "forward", lambda inner, x: inner(x) * 10 + amount)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)])
def test_around_closes_in_any_order(order: tuple[int, ...]) -> None:
    owner = Owner()
    contexts = [adding(owner, amount) for amount in (1, 2, 3)]
    for context in contexts:
        context.__enter__()
    assert owner(0) == 123
    left = [0, 1, 2]
    for index in order:
        contexts[index].__exit__(None, None, None)
        left.remove(index)
        assert owner(0) == int("0" + "".join(str(i + 1) for i in left))
    assert "forward" not in owner.__dict__


def test_around_may_be_entered_again_between() -> None:
    owner = Owner()
    first, second, third = (adding(owner, amount) for amount in (1, 2, 3))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    third.__enter__()
    assert owner(0) == 23
    second.__exit__(None, None, None)
    assert owner(0) == 3
    third.__exit__(None, None, None)
    assert "forward" not in owner.__dict__


def test_around_gives_back_an_instances_own_method() -> None:
    owner = Owner()
    own = lambda x: x + 100  # noqa: E731
    owner.__dict__["forward"] = own
    with adding(owner, 1):
        assert owner(0) == 1001
    assert owner.__dict__["forward"] is own


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_around_ends_after_any_exception(error: type[BaseException]) -> None:
    owner = Owner()

    def fail(inner: Any, x: int) -> int:
        raise error("stop")

    with pytest.raises(error), around(owner, "forward", fail):
        owner(0)
    assert "forward" not in owner.__dict__
    assert owner(4) == 4


def test_around_keeps_the_signature_and_may_nest_calls() -> None:
    import inspect

    owner = Owner()
    seen = []

    def twice(inner: Callable[..., int], x: int) -> int:
        seen.append(x)
        return inner(owner(x - 1)) if x else inner(x)

    with around(owner, "forward", twice):
        assert list(inspect.signature(owner.forward).parameters) == ["x"]
        assert owner(3) == 0
    assert seen == [3, 2, 1, 0]


def test_registered_takes_off_its_own_hooks_only() -> None:
    model = tiny_model("gpt2")
    point = adapt(model).hook_point("blocks.1.hook_resid_post")
    fired: list[str] = []
    point.add_hook(lambda x, hook: fired.append("before"))
    with registered([(point, lambda x, hook: fired.append("ours"))]):
        point.add_hook(lambda x, hook: fired.append("inside"))
        model(TOKENS)
    assert fired == ["before", "ours", "inside"]
    fired.clear()
    model(TOKENS)
    assert fired == ["before", "inside"]
    assert len(point.fwd_hooks) == len(point._forward_hooks) == 2


# --- adapt --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
def test_adapt_refuses_other_objects_in_words() -> None:
    with pytest.raises(TypeError, match="expected a TransformerLens TransformerBridge or HookedTransformer, got Owner"):
        adapt(Owner())
    with pytest.raises(TypeError, match=r"load_model\(name\).*TransformerBridge.boot_transformers"):
        trace(tiny_model("gpt2").original_model, TOKENS)
    with pytest.raises(TypeError, match="got str"):
        halting("gpt2", None, "observe").__enter__()


def test_context_length() -> None:
    assert adapt(tiny_model("llama")).context_length == 128
    assert adapt(tiny_model("gpt2")).context_length == 128
    assert adapt(tiny_model("bloom")).context_length is None
    assert adapt(tiny_model("falcon")).context_length == 2048
    alibi = tiny_model("falcon", alibi=True, max_position_embeddings=16)
    assert adapt(alibi).context_length is None
    assert trace(alibi, [[5] * 30]).sizes["token"] == 30


# --- every architecture -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny_model("llama")


def snapshot(model: Any) -> dict[str, int]:
    return {name: id(module) for name, module in model.original_model.named_modules(remove_duplicate=False)}


def test_lean_is_exact_and_gives_everything_back(model: Any) -> None:
    adapter = adapt(model)
    assert isinstance(adapter, BridgeAdapter)
    before = snapshot(model)
    fired: list[str] = []
    inside = [
        (p, lambda x, hook: fired.append(hook.name))
        for p in adapter.hook_points()
        if p.name and p.name.startswith("blocks") and p.name.endswith(("attn.hook_out", "mlp.hook_out", "hook_pattern"))
    ]
    mask = torch.ones_like(TOKENS).bool()
    mask[1, :2] = False
    with torch.no_grad():
        plain, _ = adapter.step(TOKENS, mask, None, use_cache=False, keep=None)
        with adapter.lean():
            # Falcon's bridged attention computes by itself: it has no lean path, and keeps its numbers.
            lean_path = snapshot(model) != before
            assert lean_path == (model.original_model.config.model_type != "falcon")
            lean, _ = adapter.step(TOKENS, mask, None, use_cache=False, keep=None)
            with registered(inside):
                adapter.step(TOKENS, mask, None, use_cache=False, keep=None)
    assert torch.equal(plain, lean)
    assert bool(fired) != lean_path, "hook points inside lean blocks do not fire"
    assert snapshot(model) == before
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), adapter.lean():
            raise error
        assert snapshot(model) == before
    with torch.no_grad():
        assert torch.equal(adapter.step(TOKENS, mask, None, use_cache=False, keep=None)[0], plain)


def test_lean_leaves_foreign_changes_alone(llama: Any) -> None:
    """A pass that fails inside the lean path gives the modules back too."""
    before = snapshot(llama)

    def fail(x: Tensor, hook: Any) -> None:
        raise KeyboardInterrupt

    point = adapt(llama).hook_point("blocks.2.hook_resid_post")
    with adapt(llama).lean(), registered([(point, fail)]), pytest.raises(KeyboardInterrupt):
        llama(TOKENS)
    assert snapshot(llama) == before
    assert not adapt(llama).user_hooked()


def test_cached_steps_are_the_uncached_pass(model: Any) -> None:
    adapter = adapt(model)
    mask = torch.ones_like(TOKENS).bool()
    mask[1, :2] = False
    with torch.no_grad():
        whole, _ = adapter.step(TOKENS, mask, None, use_cache=False, keep=None)
        logits, cache = adapter.step(TOKENS[:, :3], mask[:, :3], None, use_cache=True, keep=None)
        parts = [logits]
        for position in (3, 4, 5):
            until = position + 1
            step = TOKENS[:, position:until]
            logits, cache = adapter.step(step, mask[:, :until], cache, use_cache=True, keep=1)
            parts.append(logits)
        last, _ = adapter.step(TOKENS, mask, None, use_cache=False, keep=1)
        two, _ = adapter.step(TOKENS, mask, None, use_cache=False, keep=2)
    cached = torch.cat(parts, dim=1)
    torch.testing.assert_close(cached[mask], whole[mask], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(last, whole[:, -1:], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(two, whole[:, -2:], rtol=1e-6, atol=1e-6)
    assert (last.shape[1], two.shape[1]) == (1, 2)


def test_selected_rows_of_a_cache_go_on_as_if_they_had_been_read(model: Any) -> None:
    adapter = adapt(model)
    mask = torch.ones_like(TOKENS).bool()
    mask[1, :2] = False
    rows = torch.tensor([1, 1, 0])
    with torch.no_grad():
        whole, _ = adapter.step(TOKENS[rows], mask[rows], None, use_cache=False, keep=1)
        _, cache = adapter.step(TOKENS[:, :5], mask[:, :5], None, use_cache=True, keep=1)
        adapter.select_rows(cache, rows)
        logits, _ = adapter.step(TOKENS[rows, 5:], mask[rows], cache, use_cache=True, keep=1)
    torch.testing.assert_close(logits, whole, rtol=1e-5, atol=2e-5)


# --- quiet --------------------------------------------------------------------------------------------


def test_quiet_fires_nobodys_hooks(llama: Any) -> None:
    adapter = adapt(llama)
    fired: list[int] = []
    point = adapter.hook_point("blocks.0.hook_resid_pre")
    with registered([(point, lambda x, hook: fired.append(1))]):
        assert adapter.user_hooked()
        with adapter.quiet():
            assert not adapter.user_hooked()
            llama(TOKENS)
        assert not fired
        llama(TOKENS)
        assert fired == [1]
        with pytest.raises(KeyboardInterrupt), adapter.quiet():
            raise KeyboardInterrupt
        llama(TOKENS)
        assert fired == [1, 1]
    assert not adapter.user_hooked()


def test_hooks_of_transformer_lens_itself_are_not_the_users() -> None:
    """OPT's MLP hook points fire by permanent hooks: a check must leave them, and a fresh model has no user hooks."""
    model = tiny_model("opt")
    adapter = adapt(model)
    assert not adapter.user_hooked()
    report = check_stream(model)
    assert report.sublayers, report.reason
    fired: list[int] = []
    model.add_perma_hook("blocks.0.hook_resid_pre", lambda x, hook: fired.append(1))
    assert adapter.user_hooked()
    with adapter.quiet():
        model(TOKENS)
    assert not fired


def test_a_check_inside_a_context_is_not_recorded() -> None:
    """The first sublayer measure of a model runs a check: an outer context must not see its passes."""
    model = tiny_model("llama")
    with halting(model, None, "observe") as recorder, halting(model, FixedLayers([]), "bypass"):
        t = trace(model, [[5, 9, 12]], measures=["attn_out_norm"])
        assert check_stream(model).sublayers
    assert len(recorder.runs) == 1
    np.testing.assert_array_equal(recorder.trace["delta_norm"], t["delta_norm"])
    assert "forward" not in model.original_model.__dict__


# --- passes, as a listener is told of them ------------------------------------------------------------


class Listener:
    def __init__(self) -> None:
        self.given: list[PassInput] = []
        self.closed: list[tuple[bool, bool]] = []

    def open_pass(self, given: PassInput) -> None:
        self.given.append(given)

    def close_pass(self, cache: Any, completed: bool) -> None:
        self.closed.append((cache is not None, completed))


def test_pass_input_of_positional_and_keyword_calls(llama: Any) -> None:
    listener = Listener()
    mask = torch.ones_like(TOKENS)
    mask[0, :2] = 0
    hf = llama.original_model
    with torch.no_grad(), adapt(llama).watch(listener):
        hf(TOKENS, mask)
        hf(TOKENS, attention_mask=mask)
        cache = hf(input_ids=TOKENS, attention_mask=mask, use_cache=True).past_key_values
        longer = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        hf(TOKENS[:, :1], longer, None, cache)
        hf(inputs_embeds=hf.get_input_embeddings()(TOKENS), attention_mask=mask)
        hf(TOKENS, attention_mask=torch.ones(2, 1, 6, 6, dtype=torch.bool))  # ready-made: whose pads are unknown
        hf(TOKENS)
    for given in listener.given[:3]:
        assert given.tokens is not None
        assert torch.equal(given.tokens, TOKENS)
        assert given.attention_mask is not None
        assert torch.equal(given.attention_mask, mask.bool())
        assert given.past_length == 0
    step, embedded, square, bare = listener.given[3:]
    assert step.past_length == 6
    assert step.cache is cache
    assert step.attention_mask is not None
    assert step.attention_mask.shape == (2, 7)
    assert embedded.tokens is None
    assert embedded.attention_mask is not None
    assert square.attention_mask is None
    assert bare.attention_mask is None
    assert all(completed for _, completed in listener.closed)
    assert len(listener.closed) == 7


def test_a_failing_pass_is_closed_as_not_completed(llama: Any) -> None:
    listener = Listener()

    def fail(x: Tensor, hook: Any) -> None:
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        adapt(llama).watch(listener),
        llama.hooks(fwd_hooks=[("blocks.1.hook_resid_post", fail)]),
    ):
        llama(TOKENS)
    assert listener.closed == [(False, False)]
    assert "forward" not in llama.original_model.__dict__


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m(TOKENS, stop_at_layer=2),
        lambda m: m.run_with_cache(TOKENS, stop_at_layer=2),
        lambda m: m.run_with_cache(TOKENS, stop_at_layer=-1),
        lambda m: m.run_with_hooks(TOKENS, stop_at_layer=1),
    ],
)
def test_passes_that_stop_early_are_refused(llama: Any, call: Callable[[Any], Any]) -> None:
    with halting(llama, LAC, "bypass", attention_mask=torch.ones_like(TOKENS)) as recorder:
        with pytest.raises(PartialPassError, match="stop_at_layer runs a part of the model"):
            call(llama)
        llama(TOKENS)
    assert len(recorder.runs) == 1
    assert not adapt(llama).user_hooked()


def test_passes_that_start_late_are_refused(llama: Any) -> None:
    with torch.no_grad():
        _, cache = llama.run_with_cache(TOKENS)
    stream = cache["blocks.1.hook_in"]
    try:
        expected = llama(stream, start_at_layer=1)
    except NotImplementedError:
        pytest.skip("this TransformerLens has no start_at_layer on a bridge")
    assert expected.shape[:2] == TOKENS.shape
    with halting(llama, LAC, "bypass"), pytest.raises(PartialPassError, match="start_at_layer runs a part"):
        llama(stream, start_at_layer=1)
    mask = torch.ones_like(TOKENS)
    with halting(llama, LAC, "observe", attention_mask=mask) as recorder:
        llama(TOKENS)
        llama(cache["blocks.0.hook_in"], start_at_layer=0)
    a, b = recorder.runs
    np.testing.assert_allclose(a["delta_norm"], b["delta_norm"], rtol=1e-5, atol=1e-5)
    assert (b["token_id"] == -1).all()


# --- masks, positions and phases on every way of running a bridge -------------------------------------


def tokenizer() -> Any:
    """One token a word; BOS by itself, as Llama's. A name, which TransformerLens reads, though it loads nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(4, 97))]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        add_bos_token=True,
        name_or_path="tiny",
    )


@pytest.fixture(scope="module")
def talking() -> Any:
    from lacscope import testing

    build_hf = getattr(testing, "tiny_hf_model", None) or testing.tiny_transformers_model
    return build_bridge(build_hf("llama"), tokenizer(), name="talking", residual_only=False)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"model", "llama", "talking"} & set(request.fixturenames):
        shared = request.getfixturevalue(name)
        assert "forward" not in shared.original_model.__dict__
        assert not adapt(shared).user_hooked()


TEXTS = ["w5 w9 w12 w7", "w6"]
LENGTHS = [5, 2]
LEFT = torch.tensor([[1, 5, 9, 12, 7], [0, 0, 0, 1, 6]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}

MASKED: dict[str, Callable[[Any], Any]] = {
    "forward, left-padded text": lambda m: m(TEXTS, padding_side="left"),
    "forward, tokens and mask": lambda m: m(LEFT, attention_mask=MASK),
    "run_with_hooks": lambda m: m.run_with_hooks(LEFT, attention_mask=MASK),
    "run_with_cache": lambda m: m.run_with_cache(LEFT, attention_mask=MASK),
    "generate, text": lambda m: m.generate(TEXTS, verbose=False, **GREEDY),
    "generate, left": lambda m: m.generate(TEXTS, verbose=False, padding_side="left", **GREEDY),
    "generate, mask": lambda m: m.generate(LEFT, attention_mask=MASK, verbose=False, **GREEDY),
    "hf_generate, text": lambda m: m.hf_generate(TEXTS, **GREEDY),
    "hf_generate, mask": lambda m: m.hf_generate(LEFT, attention_mask=MASK, **GREEDY),
    "transformers generate": lambda m: m.original_model.generate(input_ids=LEFT, attention_mask=MASK, **GREEDY),
}


@pytest.mark.parametrize("way", sorted(MASKED))
def test_masks_and_phases_of_a_batch(talking: Any, way: str) -> None:
    """The trace is that of each text alone: positions were right, pads are out, decode begins where the prompt ends."""
    with halting(talking, LAC, "observe") as recorder:
        MASKED[way](talking)
    t = recorder.trace
    expected = trace(talking, TEXTS, rule=LAC, max_new_tokens=4 if "generate" in way else 0)
    for row, length in enumerate(LENGTHS):
        n = int(expected["valid"][row].sum())
        one, other = t.isel(sample=row, token=slice(0, n)), expected.isel(sample=row, token=slice(0, n))
        np.testing.assert_array_equal(one["token_id"], other["token_id"])
        np.testing.assert_array_equal(one["phase"], ["prefill"] * length + ["decode"] * (n - length))
        np.testing.assert_allclose(one["delta_norm"], other["delta_norm"], rtol=1e-4, atol=5e-5)
        np.testing.assert_array_equal(one["void"], other["void"])


UNMASKED: dict[str, Callable[[Any], Any]] = {
    "forward, right-padded text": lambda m: m(TEXTS),
    "forward, tokens": lambda m: m(LEFT),
    "run_with_cache, text": lambda m: m.run_with_cache(TEXTS),
    "generate, tokens": lambda m: m.generate(LEFT, verbose=False, **GREEDY),
    "hf_generate, tokens": lambda m: m.hf_generate(LEFT, **GREEDY),
}


@pytest.mark.parametrize("way", sorted(UNMASKED))
def test_a_batch_without_a_mask_is_warned_of_and_all_valid(talking: Any, way: str) -> None:
    with halting(talking, LAC, "observe") as recorder, pytest.warns(PaddingWarning, match="without an attention mask"):
        UNMASKED[way](talking)
    t = recorder.trace
    assert t["valid"].values[:, :5].all()
    assert (t["phase"].values[:, :5] == "prefill").all()
    assert (t["phase"].values[:, 5:][t["valid"].values[:, 5:]] == "decode").all()


def test_a_mask_given_to_halting_serves_right_padding(talking: Any) -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    with halting(talking, LAC, "observe", attention_mask=mask) as recorder:
        talking(TEXTS)
    t, expected = recorder.trace, trace(talking, TEXTS, rule=LAC)
    np.testing.assert_array_equal(t["token_id"], expected["token_id"])
    np.testing.assert_allclose(t["delta_norm"], expected["delta_norm"], rtol=1e-4, atol=5e-5)


def test_one_row_needs_no_mask(talking: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: talking.generate(TEXTS[0], verbose=False, **GREEDY),
        lambda: talking.hf_generate(TEXTS[0], **GREEDY),
        lambda: list(talking.generate_stream(TEXTS[0], verbose=False, **GREEDY)),
    ]
    with halting(talking, LAC, "bypass") as recorder:
        for call in calls:
            call()
    expected = trace(talking, TEXTS[:1], rule=LAC, effect="bypass", max_new_tokens=4)
    assert len(recorder.runs) == 3
    for run in recorder.runs:
        np.testing.assert_array_equal(run["token_id"], expected["token_id"])
        np.testing.assert_array_equal(run["phase"], expected["phase"])
        np.testing.assert_allclose(run["delta_norm"], expected["delta_norm"], rtol=1e-4, atol=5e-5)


def test_uncached_generation_warns(talking: Any) -> None:
    with halting(talking, LAC, "bypass") as recorder, pytest.warns(RunWarning, match="uncached generation"):
        talking.generate(TEXTS[0], verbose=False, use_past_kv_cache=False, stop_at_eos=False, **GREEDY)
    assert [t.sizes["token"] for t in recorder.runs] == [5, 6, 7, 8]


# --- compatibility mode -------------------------------------------------------------------------------

COMPATIBLE = ("gpt2", "llama", "gpt_neox", "qwen2")


@pytest.fixture(scope="module", params=COMPATIBLE)
def compatible(request: pytest.FixtureRequest) -> Any:
    model = tiny_model(request.param)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.enable_compatibility_mode(disable_warnings=True)
    return model


def test_hooks_fire_once_in_compatibility_mode(compatible: Any) -> None:
    tokens = TOKENS[:1]
    fired: list[str] = []
    rule = FixedLayers([1, 2])
    recorder = lacscope.Recorder()
    hooks = lacscope.halting_hooks(compatible, rule, "bypass", recorder=recorder)
    count = [(name, lambda x, hook: fired.append(hook.name)) for name, _ in hooks]
    compatible.run_with_hooks(tokens, fwd_hooks=count)
    assert len(fired) == len(set(fired)) == 8
    logits = compatible.run_with_hooks(tokens, fwd_hooks=hooks)
    with halting(compatible, rule, "bypass") as ours:
        torch.testing.assert_close(compatible(tokens), logits, rtol=0, atol=0)
    assert len(recorder.runs) == 1
    np.testing.assert_array_equal(recorder.trace["delta_norm"], ours.trace["delta_norm"])
    with compatible.hooks(fwd_hooks=hooks):
        torch.testing.assert_close(compatible(tokens), logits, rtol=0, atol=0)


def test_trace_in_compatibility_mode(compatible: Any) -> None:
    prompts = [[5, 9, 12, 7], [6, 11]]
    for effect in ("observe", "readout", "bypass"):
        together = trace(compatible, prompts, rule=LAC, effect=effect, max_new_tokens=3, batch_size=2)
        alone = trace(compatible, prompts, rule=LAC, effect=effect, max_new_tokens=3, batch_size=1)
        np.testing.assert_array_equal(together["token_id"], alone["token_id"])
        np.testing.assert_allclose(together["delta_norm"], alone["delta_norm"], rtol=1e-4, atol=5e-5)
    logits = trace(compatible, prompts[:1], logits="all")["logits"].values[0]
    np.testing.assert_allclose(logits, compatible(torch.tensor(prompts[:1]))[0].detach(), rtol=1e-4, atol=1e-4)


def test_weight_processing_in_compatibility_mode(compatible: Any) -> None:
    said = weight_processing(compatible)
    layer_norm = "rms" not in str(compatible.cfg.normalization_type).lower()
    assert said.startswith("centred" if layer_norm else "folded")


def test_weights_that_were_processed_without_the_mode_are_read_as_they_are() -> None:
    model = tiny_model("gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.process_weights()
    logits = trace(model, TOKENS[:1], logits="all")["logits"].values[0]
    np.testing.assert_allclose(logits, model(TOKENS[:1])[0].detach(), rtol=1e-4, atol=1e-4)
