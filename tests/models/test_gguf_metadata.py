"""GGUF files: the model computed is the one that the file describes, or the file is refused by the key it has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_files import VOCABULARY, rotated, write_gguf

import lacscope
from lacscope.models._facts import quantization, weights_digest
from lacscope.models._loading import ModelLoadError
from lacscope.models.adapters import adapt
from lacscope.testing import tiny_transformers_model

IDS = torch.arange(5, 105).unsqueeze(0)
BASE = 10000.0
Write = Callable[..., Path]


def tiny(**config: Any) -> Any:
    return tiny_transformers_model("llama", n_layers=2, vocab_size=VOCABULARY, **config)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setenv("LACSCOPE_CACHE", str(tmp_path / "cache"))
    return lambda *args, **kwargs: write_gguf(tmp_path / "tiny.gguf", *args, **kwargs)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found = model(IDS)
    return found if isinstance(found, torch.Tensor) else found.logits


def load(path: Path) -> Any:
    return lacscope.load_model(path, hooks="residual")


def scaled(kind: gguf.RopeScalingType, factor: float, original: int | None = None) -> Callable[[Any], None]:
    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(kind)
        writer.add_rope_scaling_factor(factor)
        if original is not None:
            writer.add_rope_scaling_orig_ctx_len(original)

    return more


def test_rope_factors_are_divisors_of_the_frequencies(written: Write):
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": BASE,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    wanted, plain = tiny(rope_parameters=llama3), tiny()
    divisors = (plain.model.rotary_emb.inv_freq / wanted.model.rotary_emb.inv_freq).numpy()
    assert divisors.max() > 2
    file = written(wanted, lambda writer: writer.add_tensor("rope_freqs.weight", divisors.astype(np.float32)))
    model = load(file)
    # transformers' own Llama 3 scaling, reached another way: float32 rounding of eight frequencies.
    assert torch.allclose(logits(model), logits(wanted), atol=1e-5)
    assert (logits(plain) - logits(wanted)).abs().max() > 0.1
    # The weights are those of the plain model; what makes it another one is in the digest.
    unscaled = load(written(plain))
    assert weights_digest(unscaled) != weights_digest(model)
    assert all(torch.equal(a, b) for a, b in zip(unscaled.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("rope", "more"),
    [
        ({"rope_type": "linear", "factor": 4.0}, scaled(gguf.RopeScalingType.LINEAR, 4.0)),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            scaled(gguf.RopeScalingType.YARN, 4.0, 32),
        ),
    ],
    ids=["linear", "yarn"],
)
def test_rope_scaling_is_transformers_own(written: Write, rope: dict[str, Any], more: Callable[[Any], None]):
    wanted = tiny(rope_parameters={"rope_theta": BASE, **rope})
    assert torch.allclose(logits(load(written(wanted, more))), logits(wanted), atol=1e-5)
    assert (logits(tiny()) - logits(wanted)).abs().max() > 0.1


def test_long_and_short_factors(written: Write):
    short, long = [1.0, 1.5, 2.0, 3.0], [1.0, 4.0, 8.0, 16.0]
    rope = {
        "rope_type": "longrope",
        "rope_theta": BASE,
        "short_factor": short,
        "long_factor": long,
        "factor": 4.0,
        "attention_factor": 1.2,
        "original_max_position_embeddings": 32,
    }

    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_attn_factors(1.2)
        writer.add_rope_scaling_orig_ctx_len(32)
        for name, factors in (("short", short), ("long", long)):
            writer.add_tensor(f"rope_factors_{name}.weight", np.array(factors, dtype=np.float32))

    wanted = tiny(rope_parameters=rope)
    model = load(written(wanted, more))
    assert torch.allclose(logits(model), logits(wanted), atol=1e-5)  # 100 tokens: the long ones
    with torch.no_grad():  # 20 tokens: the short ones
        assert torch.allclose(model(IDS[:, :20]), wanted(IDS[:, :20]).logits, atol=1e-5)


def test_biases_that_the_file_has_are_the_models(written: Write):
    wanted = tiny(attention_bias=True)
    with torch.no_grad():
        for name, parameter in wanted.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))

    def more(writer: gguf.GGUFWriter) -> None:
        for layer in range(2):
            for ours, theirs, heads in (("q", "q", 4), ("k", "k", 2), ("v", "v", 0), ("output", "o", 0)):
                bias = wanted.state_dict()[f"model.layers.{layer}.self_attn.{theirs}_proj.bias"].numpy().copy()
                writer.add_tensor(f"blk.{layer}.attn_{ours}.bias", rotated(bias, heads) if heads else bias)

    assert torch.allclose(logits(load(written(wanted, more))), logits(wanted), atol=1e-5)


def test_generation_ends_at_the_end_of_the_turn(written: Write):
    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_eot_token_id(3)
        writer.add_uint32("tokenizer.ggml.eom_token_id", 4)

    assert adapt(load(written(tiny(), more))).stop_ids() == {2, 3, 4}


def test_an_end_of_turn_that_the_template_writes_needs_no_key(written: Write):
    template = "{% for message in messages %}<|user|>{{ message.content }}<|end|>{% endfor %}"
    assert adapt(load(written(tiny(), lambda w: w.add_chat_template(template)))).stop_ids() == {2, 3}
    assert adapt(load(written(tiny()))).stop_ids() == {2}


@pytest.mark.parametrize("end", ["<|end|>", "<\uff5cend\u2581of\uff5c>", "<|an end|>"])
def test_control_tokens_are_special_under_their_own_ids(written: Write, end: str):
    special = ("<pad>", "<s>", "</s>", end, "<|user|>")
    tokenizer = load(written(tiny(), special=special)).tokenizer
    assert [tokenizer.added_tokens_decoder[i].special for i in range(5)] == [True] * 5
    assert tokenizer.convert_ids_to_tokens(3) == end
    assert tokenizer(f"{end}a", add_special_tokens=False).input_ids[0] == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (lambda w: w.add_attention_scale(0.3), r"llama\.attention\.scale is 0\.3\d*, and LlamaConfig cannot say so"),
        (lambda w: w.add_sliding_window(8), r"llama\.attention\.sliding_window is 8"),
        (lambda w: w.add_attn_logit_softcapping(50.0), r"llama\.attn_logit_softcapping is 50\.0"),
        (lambda w: w.add_final_logit_softcapping(30.0), r"llama\.final_logit_softcapping is 30\.0"),
        (lambda w: w.add_expert_count(4), r"llama\.expert_count is 4"),
        (lambda w: w.add_clamp_kqv(8.0), r"llama\.attention\.clamp_kqv is 8\.0"),
        (lambda w: w.add_causal_attention(False), r"llama\.attention\.causal is False"),
        (lambda w: w.add_float32("llama.new_scale", 2.0), r"llama\.new_scale is 2\.0, which is not known here"),
        (lambda w: w.add_float32("llama.rope.new_key", 2.0), r"llama\.rope\.new_key is 2\.0"),
        (lambda w: w.add_string("llama.rope.scaling.type", "su"), r"llama\.rope\.scaling\.type is 'su'"),
        (lambda w: w.add_uint16("split.count", 3), r"split\.count is 3: it is one of 3 parts; merge them"),
        (
            lambda w: w.add_tensor("blk.0.attn_sinks.weight", np.ones(4, dtype=np.float32)),
            r"passes over 1 of its tensors \(blk\.0\.attn_sinks\.weight",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_by_its_key(written: Write, more: Callable[[Any], None], message: str):
    with pytest.raises(ModelLoadError, match=message):
        load(written(tiny(), more))


def test_keys_that_say_what_the_model_does_anyway_are_no_reason(written: Write):
    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_attention_scale(8**-0.5)
        writer.add_sliding_window(4096)
        writer.add_key_length(8)
        writer.add_value_length(8)
        writer.add_causal_attention(True)

    plain = tiny()
    assert torch.allclose(logits(load(written(plain, more))), logits(plain), atol=1e-5)


def test_missing_tensors_are_not_made_up(written: Write):
    with pytest.raises(ModelLoadError, match=r"no weights for 1 of the model's parameters \(.*layers\.1\.mlp\.up_proj"):
        load(written(tiny(), without=("blk.1.ffn_up.weight",)))


def test_a_file_cut_short_is_refused_in_words(written: Write):
    whole = written(tiny()).read_bytes()
    path = written(tiny())
    for length in (0, 3, 40, 3000, len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelLoadError, match=r"tiny\.gguf cannot be read as GGUF: it is damaged, cut short"):
            load(path)


def test_what_the_weights_are_quantised_to_is_said(written: Write):
    plain = load(written(tiny()))
    assert quantization(plain) == ""
    assert "quantization" not in lacscope.trace(plain, IDS[:, :4]).attrs
    wide = tiny(hidden_size=64, intermediate_size=64)
    packed = load(written(wide, stored=gguf.GGMLQuantizationType.Q8_0))
    said = "GGUF Q8_0 x 14, F32 x 7, dequantised"  # seven matrices a layer; norms, embedding and head as they are
    traced = lacscope.trace(packed, IDS[:, :4])
    assert quantization(packed) == said == traced.attrs["quantization"]
    assert lacscope.layer_usage(traced, lacscope.voids(traced, 0.8)).attrs["quantization"] == said
    # Q8_0 rounds a weight to 1/127 of the largest of its block of 32.
    assert 0 < (logits(packed) - logits(wide)).abs().max() < 0.1
