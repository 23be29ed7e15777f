"""lacscope on TransformerLens 3.9's ``HookedTransformer``, raw and processed; 4.x has no such class."""

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

import lacscope
from lacscope import (
    FixedLayers,
    GivenVoids,
    L2AdaptiveComputation,
    PaddingWarning,
    PartialPassError,
    RunWarning,
    halting,
    trace,
)
from lacscope.models._checks import check_blocks, check_stream
from lacscope.models._facts import model_attrs, model_cost, weight_processing
from lacscope.models.adapters import HookedTransformerAdapter, adapt
from lacscope.tracing._inputs import InputError

try:
    import transformer_lens
    from transformer_lens import HookedTransformer
except ImportError:
    pytest.skip("TransformerLens 4.x has no HookedTransformer: run this with 3.9", allow_module_level=True)

PROMPTS = [[1, 5, 9, 12, 7, 30], [1, 6], [1, 8, 3, 21]]
LAC = L2AdaptiveComputation(0.5)
EFFECTS = ("observe", "readout", "bypass")
NORMS = ("resid_pre_norm", "resid_post_norm", "delta_norm", "update_norm")

KINDS: dict[str, dict[str, Any]] = {
    "learned": {"normalization_type": "LN", "act_fn": "gelu"},
    "rotary": {
        "normalization_type": "RMS",
        "act_fn": "silu",
        "gated_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": 8,
        "n_key_value_heads": 2,
    },
    "parallel": {
        "normalization_type": "LN",
        "act_fn": "gelu",
        "parallel_attn_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
    },
    "alibi": {"normalization_type": "LN", "act_fn": "gelu", "positional_embedding_type": "alibi"},
    "attn_only": {"normalization_type": "LN", "attn_only": True},
}


def tokenizer() -> Any:
    """One token a word; BOS by itself, as Llama's. A name, which TransformerLens reads, though it loads nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(4, 44))]
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


def build(kind: str = "learned", *, processed: bool = False, with_tokenizer: bool = True, **config: Any) -> Any:
    """A tiny random HookedTransformer whose blocks differ and whose deltas change sign."""
    options: dict[str, Any] = {"n_layers": 4, "d_model": 32, "d_head": 8, "n_heads": 4, "d_mlp": 64, "n_ctx": 64}
    options |= {"d_vocab": 44, "device": "cpu", "seed": 0, **KINDS[kind], **config}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the class is deprecated
        model = HookedTransformer(
            transformer_lens.HookedTransformerConfig(**options), tokenizer() if with_tokenizer else None
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith((".w", "ln_final.w")):
                    parameter.add_(0.3 * torch.randn_like(parameter))
                else:
                    parameter.copy_(0.25 * torch.randn_like(parameter))
        if processed:
            model.process_weights_()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["learned", "rotary", "parallel", "alibi", "processed"])
def model(request: pytest.FixtureRequest) -> Any:
    if request.param == "processed":
        return build("learned", processed=True)
    return build(request.param)


@pytest.fixture(scope="module")
def learned() -> Any:
    return build("learned")


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"model", "learned"} & set(request.fixturenames):
        assert_clean(request.getfixturevalue(name))


def assert_clean(model: Any, n_hooks: int = 0) -> None:
    assert not {"forward", "input_to_embed", "generate"} & set(model.__dict__)
    assert "forward" not in model.embed.__dict__
    assert sum(len(point.fwd_hooks) for point in model.hook_dict.values()) == n_hooks
    assert sum(len(point._forward_hooks) for point in model.hook_dict.values()) == n_hooks


def assert_same(
    a: xr.Dataset,
    b: xr.Dataset,
    tolerance: float = 1e-5,
    tokens: Sequence[str] = ("token_id", "next_token_id", "phase", "valid"),
) -> None:
    """The same rows: tokens and voids exactly, numbers but for float32 rounding."""
    for name in tokens:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    for name in set(NORMS) | (set(a.data_vars) & set(b.data_vars)) - {"void"}:
        # Deltas are differences of norms (near 30) and have their rounding. Logits are sums of products, which
        # processors add in different orders.
        atol = 5 * tolerance if name.endswith("delta_norm") or name == "logits" else tolerance
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=atol, err_msg=name)
    if "void" in a:
        np.testing.assert_array_equal(a["void"], b["void"])


def without_blocks(model: Any, layers: Sequence[int]) -> Any:
    shorter = copy.deepcopy(model)
    shorter.blocks = torch.nn.ModuleList(b for i, b in enumerate(shorter.blocks) if i not in layers)
    shorter.cfg.n_layers = len(shorter.blocks)
    shorter.setup()
    return shorter


def sample(t: xr.Dataset, row: int) -> xr.Dataset:
    one = t.isel(sample=[row])
    return one.isel(token=slice(0, int(one["valid"].sum())))


# --- what the model is --------------------------------------------------------------------------------


def test_the_adapter_knows_the_model(model: Any) -> None:
    adapter = check_blocks(model)
    assert isinstance(adapter, HookedTransformerAdapter)
    assert adapter.n_layers == 4
    assert adapter.vocab_size == 44
    assert adapter.stop_ids() == {2}
    assert adapter.hook_name(1, "hook_resid_post") == "blocks.1.hook_resid_post"
    assert adapter.hook_point("blocks.9.hook_resid_post") is None
    assert adapter.device.type == "cpu"
    assert adapter.dtype is torch.float32
    assert adapter.context_length == (None if model.cfg.positional_embedding_type == "alibi" else 64)
    assert adapt(adapter) is adapter
    assert check_stream(model).chained
    assert check_stream(model).sublayers


def test_alibi_reads_past_n_ctx() -> None:
    model = build("alibi", n_ctx=8)
    t = trace(model, [[1] + [5] * 11], max_new_tokens=3)
    assert t.sizes["token"] >= 12


def test_a_prompt_longer_than_the_context_is_refused(learned: Any) -> None:
    with pytest.raises(InputError, match="context of custom holds 64"):
        trace(learned, [[5] * 65])


def test_attributes(model: Any) -> None:
    attrs = model_attrs(model)
    assert attrs["model_class"] == "HookedTransformer"
    cost = model_cost(model)
    assert cost is not None
    assert json.loads(attrs["cost"])["head"] == 2.0 * 32 * 44
    n_kv = model.cfg.n_key_value_heads or 4
    assert cost.kv == 2.0 * 2 * 32 * n_kv * 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (None, "none"),
        ({"fold_ln": True, "center_writing_weights": False}, "folded"),
        ({"fold_ln": True, "center_writing_weights": True}, "centred"),
        ({"fold_ln": False, "center_writing_weights": True}, "centred"),
    ],
)
def test_weight_processing_is_named(options: dict[str, bool] | None, said: str) -> None:
    model = build("learned")
    if options is not None:
        model.process_weights_(**options)
    assert weight_processing(model).startswith(said)


def test_centring_moves_norms_and_not_logits() -> None:
    raw, processed = build("learned"), build("learned", processed=True)
    a, b = (trace(m, PROMPTS, logits="all") for m in (raw, processed))
    assert a.attrs["weight_processing"] == "none"
    assert b.attrs["weight_processing"].startswith("centred")
    assert np.nanmax(abs(b["resid_post_norm"] / a["resid_post_norm"] - 1)) > 1e-3
    log_probs = [torch.log_softmax(torch.tensor(t["logits"].values), -1) for t in (a, b)]
    torch.testing.assert_close(*log_probs, rtol=1e-4, atol=1e-4, equal_nan=True)


# --- trace --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EFFECTS)
def test_batched_alone_and_uncached_agree(model: Any, effect: str) -> None:
    options: dict[str, Any] = {"rule": LAC, "effect": effect, "logits": "all"}
    batched = trace(model, PROMPTS, max_new_tokens=6, batch_size=3, **options)
    alone = trace(model, PROMPTS, max_new_tokens=6, batch_size=1, **options)
    assert_same(batched, alone)
    assert (batched["phase"] == "decode").any()
    assert (batched["void"] == 1).values.any()
    for row, prompt in enumerate(PROMPTS):
        one = sample(batched, row)
        answer = one["token_id"].values[0, len(prompt) :].tolist()
        if not answer:
            continue
        uncached = trace(model, [prompt], responses=[answer], **options)
        # Given answers are not sampled, so they stand under no next_token_id.
        assert_same(one, uncached, tokens=("token_id", "phase", "valid"))


def assert_phases(t: xr.Dataset, lengths: Sequence[int]) -> None:
    for row, length in enumerate(lengths):
        phases = t["phase"].values[row][t["valid"].values[row]]
        assert list(phases) == ["prefill"] * length + ["decode"] * (len(phases) - length)


def test_generation_is_the_plain_models(model: Any) -> None:
    """Greedy tokens of a plain uncached loop, one prompt at a time."""
    t = trace(model, PROMPTS, max_new_tokens=6, batch_size=3)
    assert_phases(t, [len(p) for p in PROMPTS])
    for row, prompt in enumerate(PROMPTS):
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
            if ids[-1] == 2:
                break
        one = sample(t, row)
        assert one["token_id"].values[0].tolist() == ids[:-1]
        assert one["next_token_id"].values[0, len(prompt) - 1 :].tolist() == ids[len(prompt) :]


@pytest.mark.parametrize("layers", [[1], [0, 2], [3], [0, 1, 2, 3]])
def test_bypass_is_deletion(model: Any, layers: list[int]) -> None:
    rule = FixedLayers(layers)
    bypassed = trace(model, PROMPTS, rule=rule, effect="bypass", max_new_tokens=5, logits="all")
    if len(layers) == 4:
        tokens = torch.tensor(PROMPTS[:1])
        residual = model.input_to_embed(tokens)[0]
        expected = model.unembed(model.ln_final(residual))
        np.testing.assert_allclose(bypassed["logits"][0, : len(PROMPTS[0])], expected[0], atol=1e-5)
        return
    deleted = trace(without_blocks(model, layers), PROMPTS, max_new_tokens=5, logits="all")
    np.testing.assert_array_equal(bypassed["token_id"], deleted["token_id"])
    assert float(abs(bypassed["logits"] - deleted["logits"]).max()) < 1e-5
    kept = [layer for layer in range(4) if layer not in layers]
    assert float(abs(bypassed["resid_post_norm"].isel(layer=kept).values - deleted["resid_post_norm"]).max()) < 1e-4


def test_bypassing_nothing_and_observing_change_no_bit(model: Any) -> None:
    tokens = torch.tensor([PROMPTS[0]])
    plain = model(tokens)
    nothing = FixedLayers([])
    for rule, effect in ((nothing, "bypass"), (nothing, "readout"), (LAC, "observe"), (None, "observe")):
        with halting(model, rule, effect) as recorder:
            assert torch.equal(model(tokens), plain)
        assert len(recorder.runs) == 1
        t = trace(model, [PROMPTS[0]], rule=rule, effect=effect, logits="all")
        masked = model(tokens, attention_mask=torch.ones_like(tokens))
        assert np.array_equal(t["logits"].values[0], masked[0].numpy())


def test_readout_is_the_stream_after_the_last_active_layer(model: Any) -> None:
    tokens = torch.tensor([PROMPTS[0]])
    _, cache = model.run_with_cache(tokens)
    with halting(model, LAC, "readout") as recorder:
        logits = model(tokens)
    void = recorder.trace["void"].values[0] == 1
    for position in range(tokens.shape[1]):
        active = np.flatnonzero(~void[:, position])
        name = f"blocks.{active[-1]}.hook_resid_post" if len(active) else "blocks.0.hook_resid_pre"
        expected = model.unembed(model.ln_final(cache[name][:, position : position + 1]))
        torch.testing.assert_close(logits[:, position : position + 1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unit", ["attn", "mlp"])
def test_sublayer_bypass_zeroes_the_sublayer(model: Any, unit: str) -> None:
    rule = FixedLayers([1, 2], unit=unit)
    t = trace(model, PROMPTS[:1], rule=rule, effect="bypass", logits="all", measures=[f"{unit}_out_norm"])
    zero = [(f"blocks.{layer}.hook_{unit}_out", lambda x, hook: torch.zeros_like(x)) for layer in (1, 2)]
    tokens = torch.tensor(PROMPTS[:1])
    expected = model.run_with_hooks(tokens, fwd_hooks=zero)
    np.testing.assert_allclose(t["logits"].values[0], expected[0], atol=1e-5)
    deltas = trace(model, PROMPTS, rule=L2AdaptiveComputation(0.5, unit=unit), effect="bypass", max_new_tokens=4)
    alone = trace(
        model, PROMPTS, rule=L2AdaptiveComputation(0.5, unit=unit), effect="bypass", max_new_tokens=4, batch_size=1
    )
    assert_same(deltas, alone)
    assert f"{unit}_delta_norm" in deltas


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.2, "seed": 4}], ids=["greedy", "sampled"])
def test_many_rules_under_readout_equal_one_run_for_each(
    model: Any, sampling: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [L2AdaptiveComputation(alpha) for alpha in (0.0, 0.3, 2.0)] + [FixedLayers([3])]
    options: dict[str, Any] = {"effect": "readout", "max_new_tokens": 6, "logits": "last", **sampling}
    alone = [trace(model, PROMPTS, rule=rule, **options) for rule in rules]
    trace(model, PROMPTS, rule=rules, effect="readout")  # its check passes, made once, are not counted
    shapes = []
    step = HookedTransformerAdapter.step

    def counted(self: Any, tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
        logits, cache = step(self, tokens, *args, **kwargs)
        shapes.append((tuple(tokens.shape), tuple(logits.shape[:2])))
        return logits, cache

    monkeypatch.setattr(HookedTransformerAdapter, "step", counted)
    many = trace(model, PROMPTS, rule=rules, **options)
    assert shapes[0] == ((3, 6), (12, 1)), "one prefill, and its last position alone for each rule"
    assert len(shapes) <= 6
    for index, one in enumerate(alone):
        assert_same(many.isel(rule=index, token=slice(one.sizes["token"])), one)
    answers = {tuple(row) for row in many["next_token_id"].values.reshape(12, -1).tolist()}
    assert len(answers) > 3, "no sample's rules disagreed: the test shows nothing"
    read = {"responses": [[4, 9], [7], [30, 31, 5]], "measures": ["surprisal", "rank"], "tokenwise": "response"}
    given = trace(model, PROMPTS, rule=rules, effect="readout", **read)
    for index, rule in enumerate(rules):
        assert_same(given.isel(rule=index), trace(model, PROMPTS, rule=rule, effect="readout", **read))


@pytest.mark.parametrize("effect", EFFECTS)
def test_given_voids_replayed(model: Any, effect: Any) -> None:
    options: dict[str, Any] = {"effect": effect, "max_new_tokens": 5, "logits": "all", "sample_ids": [5, 2, 9]}
    made = trace(model, PROMPTS, rule=LAC, **options)
    again = trace(model, PROMPTS, rule=GivenVoids.of(made["void"]), **options)
    assert again.drop_attrs().identical(made.drop_attrs())


def test_sublayers_of_an_attention_only_model_are_refused() -> None:
    model = build("attn_only")
    with pytest.raises(lacscope.UnsupportedModelError, match="hook_attn_out / hook_mlp_out"):
        trace(model, PROMPTS, rule=FixedLayers([1], unit="attn"), effect="bypass")
    t = trace(model, PROMPTS, rule=LAC, effect="bypass", max_new_tokens=3)
    assert t.sizes["layer"] == 4


def test_measures(model: Any) -> None:
    measures = ["attn_out_norm", "mlp_out_norm", "cos_pre_post", "threshold", "surprisal", "entropy"]
    t = trace(model, PROMPTS, rule=LAC, max_new_tokens=4, measures=measures)
    for row, prompt in enumerate(PROMPTS):
        one = sample(t, row)
        tokens = torch.tensor(one["token_id"].values)
        logits, cache = model.run_with_cache(tokens)
        log_probs = torch.log_softmax(logits[0], -1)
        surprisal = -log_probs[:-1].gather(-1, tokens[0, 1:, None])[:, 0]
        np.testing.assert_allclose(one["surprisal"].values[0, 1:], surprisal, rtol=1e-4, atol=1e-5)
        assert np.isnan(one["surprisal"].values[0, 0])
        np.testing.assert_allclose(one["entropy"].values[0], -(log_probs.exp() * log_probs).sum(-1), rtol=1e-4)
        for layer in range(4):
            for unit in ("attn", "mlp"):
                expected = cache[f"blocks.{layer}.hook_{unit}_out"].norm(dim=-1)[0]
                np.testing.assert_allclose(one[f"{unit}_out_norm"].values[0, layer], expected, rtol=1e-4, atol=1e-5)
        assert len(prompt) < one.sizes["token"] or (one["next_token_id"].values == 2).any()


def test_trace_from_cache_is_the_trace(model: Any) -> None:
    tokens = torch.tensor([PROMPTS[0]])
    _, cache = model.run_with_cache(tokens)
    made, traced = lacscope.trace_from_cache(cache, tokens), trace(model, tokens)
    for name in NORMS:
        np.testing.assert_allclose(made[name], traced[name], rtol=1e-5)


def test_responses_text_and_ids(learned: Any) -> None:
    ids = trace(learned, PROMPTS, responses=[[7, 8], [9], [4, 5, 6]])
    text = trace(learned, [" ".join(f"w{i}" for i in p[1:]) for p in PROMPTS], responses=["w7 w8", "w9", "w4 w5 w6"])
    known = [i for i, p in enumerate(PROMPTS) if min(p[1:]) >= 4]
    assert_same(ids.isel(sample=known), text.isel(sample=known))
    assert_phases(ids, [len(p) for p in PROMPTS])


def test_seeded_sampling_depends_on_neither_batch_nor_run(model: Any) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 1.0, "top_p": 0.9, "seed": 3}
    a = trace(model, PROMPTS, batch_size=3, **options)
    b = trace(model, PROMPTS, batch_size=1, **options)
    np.testing.assert_array_equal(a["token_id"], b["token_id"])
    greedy = trace(model, PROMPTS, max_new_tokens=6)
    assert not a["next_token_id"].equals(greedy["next_token_id"])


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_list_of_rules_is_one_trace_each(model: Any, effect: str) -> None:
    rules = [L2AdaptiveComputation(alpha) for alpha in (0.0, 0.4, 0.8)]
    many = trace(model, PROMPTS, rule=rules, effect=effect, max_new_tokens=4)
    for index, rule in enumerate(rules):
        one = trace(model, PROMPTS, rule=rule, effect=effect, max_new_tokens=4)
        picked = many.isel(rule=index, token=slice(0, one.sizes["token"]))
        np.testing.assert_array_equal(picked["void"], one["void"])
        np.testing.assert_array_equal(picked["token_id"], one["token_id"])


def test_last_and_all_logits(model: Any) -> None:
    last = trace(model, PROMPTS, logits="last")["logits"]
    every = trace(model, PROMPTS, logits="all")["logits"]
    assert last.dims == ("sample", "vocab")
    for row, prompt in enumerate(PROMPTS):
        np.testing.assert_array_equal(last[row], every[row, len(prompt) - 1])
        np.testing.assert_allclose(every[row, : len(prompt)], model(torch.tensor([prompt]))[0], atol=1e-5)


def test_text_is_read_as_the_model_reads_it(learned: Any) -> None:
    with halting(learned, None, "observe") as recorder:
        learned("w5 w9")
    read = recorder.trace["token_id"].values
    assert read.tolist() == [[1, 5, 9]]
    np.testing.assert_array_equal(trace(learned, "w5 w9")["token_id"], read)


def test_a_model_without_a_tokenizer() -> None:
    model = build("learned", with_tokenizer=False)
    t = trace(model, PROMPTS, rule=LAC, effect="bypass", max_new_tokens=4)
    assert adapt(model).stop_ids() == frozenset()
    assert_same(t, trace(model, PROMPTS, rule=LAC, effect="bypass", max_new_tokens=4, batch_size=1))
    with pytest.raises(InputError, match="no tokenizer"):
        trace(model, "text")


def test_low_precision() -> None:
    model = build("rotary", dtype=torch.bfloat16)
    t = trace(model, PROMPTS, rule=LAC, effect="bypass", max_new_tokens=4)
    assert t.attrs["dtype"] == "bfloat16"
    assert t["resid_post_norm"].dtype == np.float32


# --- halting ------------------------------------------------------------------------------------------


def words(ids: Sequence[int]) -> str:
    return " ".join(f"w{i}" for i in ids)


GENERATE = {"max_new_tokens": 6, "do_sample": False, "verbose": False, "stop_at_eos": False}


@pytest.mark.parametrize("effect", EFFECTS)
def test_halting_around_generate_is_trace(model: Any, effect: str) -> None:
    prompt = PROMPTS[0]
    t = trace(model, [prompt], rule=LAC, effect=effect, max_new_tokens=6)
    with halting(model, LAC, effect) as recorder:
        ids = model.generate(torch.tensor([prompt]), **GENERATE, return_type="tokens")
    run = recorder.trace
    assert run["token_id"].values[0].tolist() == ids[0, : run.sizes["token"]].tolist()
    n = t.sizes["token"]
    assert_phases(run, [len(prompt)])
    for name in ("token_id", "phase"):
        np.testing.assert_array_equal(run[name].values[:, :n], t[name])
    for name in NORMS:
        np.testing.assert_allclose(run[name].values[..., :n], t[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(run["void"].values[..., :n], t["void"])


@pytest.mark.parametrize("effect", EFFECTS)
def test_halting_around_generate_on_a_batch_of_text(model: Any, effect: str) -> None:
    texts = [words([5, 9, 12, 7]), words([6]), words([8, 30])]
    with halting(model, LAC, effect) as recorder:
        model.generate(texts, **GENERATE, padding_side="left")
    together = recorder.trace
    assert_phases(together, [5, 2, 3])
    for row, text in enumerate(texts):
        with halting(model, LAC, effect) as recorder:
            model.generate(text, **GENERATE)
        assert_same(sample(together, row), sample(recorder.trace, 0))
    plain = trace(model, texts, rule=LAC, effect=effect, max_new_tokens=6)
    n = plain.sizes["token"]
    ids = np.where(plain["valid"], together["token_id"].values[:, :n], -1)
    np.testing.assert_array_equal(ids, plain["token_id"])


def test_generation_ends_row_by_row(learned: Any) -> None:
    """A row that has finished goes on being read as EOS: nothing of that is valid."""
    stop = int(trace(learned, PROMPTS[:1], max_new_tokens=3)["next_token_id"].values[0].max())
    texts = [words([5, 9, 12, 7]), words([6])]
    with halting(learned, None, "observe") as recorder:
        learned.generate(texts, max_new_tokens=8, do_sample=False, verbose=False, eos_token_id=stop)
    assert recorder.trace["valid"].values.any()


def test_uncached_generation_warns_and_is_runs_of_its_own(model: Any) -> None:
    with (
        halting(model, LAC, "bypass") as recorder,
        pytest.warns(RunWarning, match="uncached generation"),
    ):
        ids = model.generate(torch.tensor(PROMPTS[:1]), **GENERATE, use_past_kv_cache=False, return_type="tokens")
    assert [t.sizes["token"] for t in recorder.runs] == [6, 7, 8, 9, 10, 11]
    with halting(model, LAC, "bypass"):
        cached = model.generate(torch.tensor(PROMPTS[:1]), **GENERATE, return_type="tokens")
    assert torch.equal(ids, cached)
    assert recorder.runs[-1]["token_id"].values[0].tolist() == ids[0, :-1].tolist()


def test_generate_stream(model: Any) -> None:
    with halting(model, None, "observe") as recorder:
        list(model.generate_stream(torch.tensor(PROMPTS[:1]), **GENERATE))
    t = recorder.trace
    assert_phases(t, [len(PROMPTS[0])])
    expected = trace(model, PROMPTS[:1], max_new_tokens=6)
    # TransformerLens masks a generated token that is the pad's id, here; what it masked is not valid.
    kept = expected["token_id"].values[0] != 0
    assert t["token_id"].values[0].tolist() == expected["token_id"].values[0, kept].tolist()


def test_generation_from_embeddings_knows_only_what_it_sampled(learned: Any) -> None:
    embeddings = learned.embed(torch.tensor(PROMPTS[:1]))
    options = GENERATE | {"return_type": "tokens"}
    with halting(learned, None, "observe") as recorder:
        sampled = learned.generate(embeddings, **options)
    ids = recorder.trace["token_id"].values[0]
    assert ids[:6].tolist() == [-1] * 6
    assert ids[6:].tolist() == sampled[0, :5].tolist()


def test_a_batch_of_tokens_without_a_mask_is_all_valid_and_warned_of() -> None:
    model = build("learned", with_tokenizer=False)
    tokens = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 4]])
    with halting(model, None, "observe") as recorder, pytest.warns(PaddingWarning, match="without an attention mask"):
        model.generate(tokens, **GENERATE, return_type="tokens")
    assert recorder.trace["valid"].values.all()
    with halting(model, None, "observe") as recorder, pytest.warns(PaddingWarning):
        model(tokens)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    with halting(model, None, "observe", attention_mask=mask) as recorder:
        model(tokens)
    assert recorder.trace["valid"].values.sum(-1).tolist() == [2, 4]


def test_a_refused_pass_says_why_and_leaves_nothing(learned: Any) -> None:
    """A warning made an error, or a wrong option, inside the opening of a pass."""
    tokens = torch.tensor([[4, 5], [6, 7]])
    with halting(learned, None, "observe"), pytest.raises(PaddingWarning):
        learned(tokens)  # warnings are errors here
    with halting(learned, None, "observe", prompt_lengths=[1, 1, 1]), pytest.raises(ValueError, match="3 rows"):
        learned(tokens)
    with halting(learned, None, "observe", prompt_lengths=[1, 1, 1]), pytest.raises(ValueError, match="3 rows"):
        learned.generate(tokens, **GENERATE)


def test_masks_are_those_that_the_model_used(learned: Any) -> None:
    """Also where TransformerLens guesses them: from the tokenizer's pad and padding side."""
    texts = [words([5, 9, 12, 7]), words([6])]
    seen: list[Tensor | None] = []
    inner = learned.blocks[0].attn.apply_causal_mask

    def spy(scores: Tensor, offset: int = 0, attention_mask: Tensor | None = None) -> Tensor:
        seen.append(attention_mask)
        return inner(scores, offset, attention_mask)

    learned.blocks[0].attn.apply_causal_mask = spy
    try:
        with halting(learned, None, "observe") as recorder:
            learned(texts, padding_side="left")
        assert recorder.trace["valid"].values.sum(-1).tolist() == [5, 2]
        assert recorder.trace["token_id"].values[1, :2].tolist() == [1, 6]
        assert seen.pop().sum(-1).tolist() == [5, 2]  # type: ignore[union-attr]

        mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
        with halting(learned, None, "observe") as recorder:
            learned(torch.tensor([[4, 5, 6], [0, 7, 8]]), attention_mask=mask)
        assert recorder.trace["valid"].values.sum(-1).tolist() == [3, 2]
        assert torch.equal(seen.pop(), mask)  # type: ignore[arg-type]

        # Right-padded text: the model masks nothing (causality keeps pads from real tokens), and nobody knows.
        with halting(learned, None, "observe") as recorder, pytest.warns(PaddingWarning):
            learned(texts)
        assert seen.pop() is None
        assert recorder.trace["valid"].values.all()
        with halting(learned, None, "observe", attention_mask=torch.tensor([[1] * 5, [1, 1, 0, 0, 0]])) as recorder:
            learned(texts)
        assert recorder.trace["valid"].values.sum(-1).tolist() == [5, 2]
    finally:
        del learned.blocks[0].attn.apply_causal_mask


def test_forward_paths_record_the_same(model: Any) -> None:
    text, tokens = words([5, 9, 12]), torch.tensor([[1, 5, 9, 12]])
    calls: list[Callable[[], Any]] = [
        lambda: model(text),
        lambda: model([text]),
        lambda: model(tokens),
        lambda: model(tokens[0]),
        lambda: model(tokens, "loss"),
        lambda: model(tokens, return_type=None),
        lambda: model.forward(tokens),
        lambda: model.run_with_hooks(tokens, fwd_hooks=[]),
        lambda: model.run_with_cache(tokens),
        lambda: model.run_with_cache(text, names_filter="blocks.1.hook_resid_post"),
        lambda: model(model.input_to_embed(tokens)[0], start_at_layer=0),
        lambda: model(model.input_to_embed(tokens)[0], "logits", False, True, None, -4),
    ]
    with halting(model, LAC, "bypass") as recorder:
        for call in calls:
            call()
    first = recorder.runs[0]
    assert len(recorder.runs) == len(calls)
    for index, run in enumerate(recorder.runs):
        np.testing.assert_allclose(run["delta_norm"], first["delta_norm"], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(run["void"], first["void"])
        expected = [-1] * 4 if index >= len(calls) - 2 else [1, 5, 9, 12]
        assert run["token_id"].values[0].tolist() == expected


def test_chunked_prompts_and_caches_of_the_user(model: Any) -> None:
    cache = transformer_lens.TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 1)
    tokens = torch.tensor([PROMPTS[0]])
    with halting(model, LAC, "bypass", prompt_lengths=[6]) as recorder:
        for start in (0, 1, 3):
            model(tokens[:, start : {0: 1, 1: 3, 3: 6}[start]], past_kv_cache=cache)
        model(torch.tensor([[7]]), past_kv_cache=cache)
    assert_phases(recorder.trace, [6])
    whole = trace(model, [PROMPTS[0]], responses=[[7]], rule=LAC, effect="bypass")
    np.testing.assert_allclose(recorder.trace["delta_norm"], whole["delta_norm"], rtol=1e-4, atol=1e-5)
    with halting(model, LAC, "observe") as recorder, pytest.warns(RunWarning, match="7 cached tokens"):
        model(torch.tensor([[8]]), past_kv_cache=cache)
    assert recorder.trace.sizes["token"] == 1


def test_a_frozen_prefix_is_read_again_and_again(learned: Any) -> None:
    cache = transformer_lens.TransformerLensKeyValueCache.init_cache(learned.cfg, "cpu", 1)
    learned(torch.tensor([[1, 5, 9]]), past_kv_cache=cache)
    cache.freeze()
    with halting(learned, None, "observe") as recorder:
        for _ in range(2):
            with pytest.warns(RunWarning, match="3 cached tokens"):
                learned(torch.tensor([[6, 7]]), past_kv_cache=cache)
    assert [t.sizes["token"] for t in recorder.runs] == [2, 2]
    xr.testing.assert_equal(recorder.runs[0]["delta_norm"], recorder.runs[1]["delta_norm"])


@pytest.mark.parametrize(
    "call",
    [
        lambda m, t: m(t, stop_at_layer=2),
        lambda m, t: m(t, "logits", False, True, None, None, None, None, None, 2),
        lambda m, t: m.run_with_cache(t, stop_at_layer=2),
        lambda m, t: m.run_with_hooks(t, stop_at_layer=-1),
        lambda m, t: m(torch.zeros(1, 3, 32), start_at_layer=1),
        lambda m, t: m(torch.zeros(1, 3, 32), "logits", False, True, None, 2),
        lambda m, t: m(torch.zeros(1, 3, 32), start_at_layer=-1),
    ],
)
def test_partial_passes_are_refused_in_words(learned: Any, call: Callable[[Any, Tensor], Any]) -> None:
    tokens = torch.tensor([PROMPTS[0]])
    with halting(learned, LAC, "bypass") as recorder:
        with pytest.raises(PartialPassError, match="runs a part of the model"):
            call(learned, tokens)
        learned(tokens)
    assert len(recorder.runs) == 1


# --- composition --------------------------------------------------------------------------------------


def test_nested_calls_are_runs_of_their_own(learned: Any) -> None:
    other = torch.tensor([[7, 8, 9, 4]])

    done: list[bool] = []

    def once(x: Tensor, hook: Any) -> None:
        if not done:
            done.append(True)
            learned(other)
            learned.generate(other, **GENERATE)

    with halting(learned, LAC, "bypass") as recorder, learned.hooks(fwd_hooks=[("blocks.2.hook_resid_post", once)]):
        learned.generate(torch.tensor([PROMPTS[0]]), **GENERATE)
    sizes = [t.sizes["token"] for t in recorder.runs]
    assert sorted(sizes) == [4, 9, 11]
    outer = recorder.runs[sizes.index(11)]
    alone = trace(learned, [PROMPTS[0]], rule=LAC, effect="bypass", max_new_tokens=6)
    np.testing.assert_allclose(
        outer["delta_norm"].values[..., : alone.sizes["token"]], alone["delta_norm"], rtol=1e-5, atol=1e-5
    )
    assert outer["token_id"].values[0, :6].tolist() == PROMPTS[0]


def test_nested_contexts_close_in_any_order(learned: Any) -> None:
    tokens = torch.tensor([PROMPTS[0]])
    first, second = halting(learned, LAC, "observe"), halting(learned, FixedLayers([1]), "bypass")
    a, b = first.__enter__(), second.__enter__()
    learned(tokens)
    first.__exit__(None, None, None)
    learned(tokens)
    second.__exit__(None, None, None)
    learned(tokens)
    assert (len(a.runs), len(b.runs)) == (1, 2)
    assert_clean(learned)


def test_a_trace_inside_a_context(learned: Any) -> None:
    """Both record; the load-time check that sublayer measures ask for reaches neither."""
    model = build("learned")
    with halting(model, LAC, "observe") as recorder:
        t = trace(model, [PROMPTS[0]], measures=["attn_out_norm"])
    assert len(recorder.runs) == 1
    np.testing.assert_array_equal(recorder.trace["delta_norm"], t["delta_norm"])
    assert_clean(model)


def test_user_hooks_before_after_and_on_the_same_point(learned: Any) -> None:
    tokens = torch.tensor([PROMPTS[0]])
    seen: list[Tensor] = []
    scale = ("blocks.1.hook_resid_post", lambda x, hook: x * 2)
    look = ("blocks.2.hook_resid_pre", lambda x, hook: seen.append(x))
    plain = learned.run_with_hooks(tokens, fwd_hooks=[scale])
    with learned.hooks(fwd_hooks=[scale]), halting(learned, None, "observe") as recorder:
        assert torch.equal(learned(tokens), plain)
    before = recorder.trace
    with halting(learned, None, "observe") as recorder, learned.hooks(fwd_hooks=[scale, look]):
        assert torch.equal(learned(tokens), plain)
    after = recorder.trace
    # Both show the edited stream at the next block; only a hook before ours is in layer 1's own delta.
    np.testing.assert_array_equal(before["resid_pre_norm"], after["resid_pre_norm"])
    assert (before["resid_post_norm"] > after["resid_post_norm"] + 1e-3).values[0, 1].all()
    np.testing.assert_allclose(seen[0].norm(dim=-1), after["resid_pre_norm"].values[:, 2], rtol=1e-6)
    assert_same(trace(learned, tokens, fwd_hooks=[scale]), before)


def test_a_hook_added_by_the_user_stays(learned: Any) -> None:
    model = build("learned")
    fired: list[int] = []
    model.add_hook("blocks.0.hook_resid_post", lambda x, hook: fired.append(1))
    with halting(model, LAC, "bypass"):
        model.add_hook("blocks.0.hook_resid_post", lambda x, hook: fired.append(2))
        model(torch.tensor([[4, 5]]))
    assert fired == [1, 2]
    assert_clean(model, n_hooks=2)
    trace(model, [[4, 5]], rule=LAC, effect="bypass")
    assert fired == [1, 2, 1, 2]
    check_stream(model)
    assert fired == [1, 2, 1, 2]


def test_reset_hooks_inside_is_an_error_in_words(learned: Any) -> None:
    with halting(learned, LAC, "bypass") as recorder:
        learned.reset_hooks()
        with pytest.raises(PartialPassError, match="reset_hooks"):
            learned(torch.tensor([[4, 5]]))
    assert not recorder.open_runs


def test_plain_hooks(model: Any) -> None:
    tokens = torch.tensor([PROMPTS[0]])
    recorder = lacscope.Recorder()
    hooks = lacscope.halting_hooks(model, LAC, "bypass", recorder=recorder)
    logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    with halting(model, LAC, "bypass") as ours:
        assert torch.equal(model(tokens), logits)
    for name in (*NORMS, "void"):
        np.testing.assert_array_equal(recorder.trace[name], ours.trace[name])
    with model.hooks(fwd_hooks=hooks):
        assert torch.equal(model(tokens), logits)
    with model.hooks(fwd_hooks=hooks), pytest.raises(PartialPassError):
        model(model.input_to_embed(tokens)[0], start_at_layer=1)


def test_a_gradient_flows_through_plain_hooks() -> None:
    model = build("learned").requires_grad_(True)
    hooks = lacscope.halting_hooks(model, LAC, "bypass")
    model.run_with_hooks(torch.tensor([PROMPTS[0]]), fwd_hooks=hooks).sum().backward()
    assert model.W_E.grad is not None
    assert model.embed.W_E.grad.abs().sum() > 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["hook", "generate", "trace", "forward"])
def test_nothing_stays_after_an_error(learned: Any, error: type[BaseException], where: str) -> None:
    def fail(x: Tensor, hook: Any) -> None:
        raise error("from the user")

    tokens = torch.tensor([PROMPTS[0]])
    failing = [("blocks.2.hook_resid_mid", fail)]
    calls: dict[str, Callable[[], Any]] = {
        "hook": lambda: learned.run_with_hooks(tokens, fwd_hooks=failing),
        "generate": lambda: learned.generate(tokens, **GENERATE),
        "forward": lambda: learned(tokens),
        "trace": lambda: trace(learned, tokens, rule=LAC, effect="bypass"),
    }
    with (
        pytest.raises(error, match="from the user"),
        halting(learned, LAC, "bypass"),
        learned.hooks(fwd_hooks=[] if where == "hook" else failing),
    ):
        calls[where]()
    assert_clean(learned)
    with halting(learned, LAC, "bypass") as recorder:
        with pytest.raises(error, match="from the user"), learned.hooks(fwd_hooks=failing):
            learned(tokens)
        learned(tokens)  # the context goes on
    assert len(recorder.runs) == 1


def test_two_models_do_not_mix() -> None:
    a, b = build("learned"), build("rotary")
    tokens = torch.tensor([PROMPTS[0]])
    with halting(a, LAC, "observe") as first, halting(b, FixedLayers([1]), "bypass") as second:
        a(tokens)
        b(tokens)
    np.testing.assert_array_equal(first.trace["delta_norm"], trace(a, tokens)["delta_norm"])
    assert second.trace["void"].values[0, 1].all()
    with pytest.raises(ValueError, match="recorder of its own"):
        lacscope.halting_hooks(b, LAC, "observe", recorder=first)


# --- the demo model's weights -------------------------------------------------------------------------

CHATS = [
    [{"role": "user", "content": "Name the river that flows through Cairo."}],
    [{"role": "user", "content": "Is a whale a fish? Answer yes or no, and say why in one sentence."}],
    [{"role": "user", "content": "Count from three to six."}],
]


@pytest.fixture(scope="module")
def demo_pair() -> tuple[Any, Any]:
    """The same weights as a HookedTransformer without processing and as a bridge."""
    from transformer_lens import loading_from_pretrained
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lacscope.models._loading import _locate

    folder = _locate("smollm2-135m-instruct")[0]
    # It refuses local folders unless the look-up of names is patched.
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(loading_from_pretrained, "get_official_model_name", lambda name: name)
        hooked = HookedTransformer.from_pretrained_no_processing(
            folder,
            hf_model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            tokenizer=AutoTokenizer.from_pretrained(folder),
            device="cpu",
        )
    return hooked.eval(), lacscope.load_model("smollm2-135m-instruct")


@pytest.mark.slow
def test_demo_weights_equal_the_bridges(demo_pair: tuple[Any, Any]) -> None:
    hooked, bridge = demo_pair
    options: dict[str, Any] = {"rule": L2AdaptiveComputation(0.8), "max_new_tokens": 12, "logits": "all"}
    a, b = (trace(m, CHATS, **options) for m in (hooked, bridge))
    assert a.attrs["weight_processing"] == "none"
    np.testing.assert_array_equal(a["token_id"], b["token_id"])
    valid = a["valid"].values
    for name in ("resid_pre_norm", "resid_post_norm", "update_norm"):
        np.testing.assert_allclose(a[name], b[name], rtol=5e-5, err_msg=name)  # measured: 9e-6
    # A delta is a difference of two norms: its error is relative to them.
    scale = np.maximum(a["resid_pre_norm"], a["resid_post_norm"])
    assert float((abs(a["delta_norm"] - b["delta_norm"]) / scale).max()) < 3e-5  # measured: 3e-6
    flips = (a["void"] != b["void"]).values & valid[:, None]
    assert flips.sum() <= 5, f"{flips.sum()} of {valid.sum() * 30} voids differ"
    assert float(abs(a["logits"] - b["logits"]).max()) < 1e-3  # measured: 8e-5
    np.testing.assert_array_equal(a["next_token_id"], b["next_token_id"])


@pytest.mark.slow
@pytest.mark.parametrize("effect", ["readout", "bypass"])
def test_demo_weights_under_an_effect(demo_pair: tuple[Any, Any], effect: str) -> None:
    hooked, bridge = demo_pair
    rule = L2AdaptiveComputation(0.8) if effect == "readout" else FixedLayers([9, 17])
    a, b = (trace(m, CHATS, rule=rule, effect=effect, max_new_tokens=8) for m in (hooked, bridge))
    np.testing.assert_array_equal(a["next_token_id"], b["next_token_id"])
    assert ((a["void"] != b["void"]).values & a["valid"].values[:, None]).sum() <= 5


@pytest.mark.slow
def test_demo_weights_generate_on_a_batch_of_text(demo_pair: tuple[Any, Any]) -> None:
    hooked, _ = demo_pair
    texts = ["The capital of France is", "Two plus two is", "Water boils at a temperature of"]
    with halting(hooked, L2AdaptiveComputation(0.8), "readout") as recorder:
        hooked.generate(texts, max_new_tokens=6, do_sample=False, verbose=False, padding_side="left")
    t = trace(hooked, texts, rule=L2AdaptiveComputation(0.8), effect="readout", max_new_tokens=6)
    np.testing.assert_array_equal(recorder.trace["token_id"], t["token_id"])
    np.testing.assert_allclose(recorder.trace["resid_post_norm"], t["resid_post_norm"], rtol=1e-4)
