"""Loading what is no plain folder of a causal model: the user's own model, wrappers of language models, near misses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

import lacscope
from lacscope.models import _loading as models
from lacscope.models._checks import UnsupportedModelError
from lacscope.models._loading import ModelLoadError
from lacscope.testing import tiny_transformers_model

IDS = torch.tensor([[5, 6, 7, 30, 31, 32, 9, 10]])
TEXT = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "vocab_size": 97,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_EYES = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 14}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}


def logits_of(model: Any, **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        found = model(IDS, **kwargs)
    return found if isinstance(found, torch.Tensor) else found.logits


# --- the user's own model -------------------------------------------------------------------------------


@pytest.mark.parametrize("hooks", ["full", "residual"])
def test_a_model_of_the_users_is_bridged_and_stays_as_it_was(hooks: str):
    mine = tiny_transformers_model("llama").train()
    before = {name: type(module) for name, module in mine.named_modules()}
    implementation, wanted = mine.config._attn_implementation, logits_of(mine.eval())
    mine.train()
    bridge = lacscope.load_model(mine, hooks=hooks)
    trace = lacscope.trace(bridge, IDS, rule=lacscope.L2AdaptiveComputation(), effect="bypass")
    assert trace.sizes["layer"] == 4
    assert torch.allclose(logits_of(bridge), wanted, atol=1e-5)
    assert {name: type(module) for name, module in mine.named_modules()} == before
    assert mine.training
    assert all(module.training for module in mine.modules())
    assert mine.config._attn_implementation == implementation
    assert not any(module.training for module in bridge.original_model.modules())
    # One set of weights: no second copy, and a change reaches both.
    with torch.no_grad():
        mine.model.layers[1].mlp.down_proj.weight.mul_(2.0)
    assert torch.allclose(logits_of(bridge), logits_of(mine.eval()), atol=1e-5)
    assert not torch.allclose(logits_of(bridge), wanted, atol=1e-3)


def test_with_a_dtype_it_is_a_copy():
    mine = tiny_transformers_model("llama")
    bridge = lacscope.load_model(mine, dtype="bfloat16", hooks="residual")
    assert next(bridge.parameters()).dtype == torch.bfloat16
    assert next(mine.parameters()).dtype == torch.float32
    half = lacscope.load_model(mine.to(torch.bfloat16), hooks="residual")
    assert next(half.parameters()).dtype == torch.bfloat16


def test_it_carries_its_tokenizer_and_its_name(tmp_path: Path):
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as pieces
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}
    raw = Tokenizer(pieces.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<pad>"
    )
    mine = tiny_transformers_model("llama")
    mine.config._name_or_path = "somebody/theirs"
    trace = lacscope.trace(lacscope.load_model(mine, tokenizer=tokenizer, hooks="residual"), "a b a")
    assert trace["token_id"].values[0].tolist()[-3:] == [3, 4, 3]
    assert trace.attrs["model"] == "theirs"
    # The same tokenizer beside a folder that has none.
    mine.save_pretrained(tmp_path)
    assert lacscope.trace(lacscope.load_model(tmp_path, tokenizer=tokenizer), "b").sizes["token"] >= 1


def test_what_is_no_transformers_model_is_named():
    mine = tiny_transformers_model("llama")
    bridge = lacscope.load_model(mine)
    with pytest.raises(TypeError, match=r"TransformerBridge given is a TransformerLens model already: use it as it is"):
        lacscope.load_model(bridge)
    with pytest.raises(ModelLoadError, match=r"inside a TransformerLens bridge already: use that bridge"):
        lacscope.load_model(bridge.original_model)
    with pytest.raises(TypeError, match=r"a transformers model, got torch\.nn\.modules\.linear\.Linear"):
        lacscope.load_model(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"belong to the reading of weights .* LlamaForCausalLM given has its weights"):
        lacscope.load_model(mine, device_map="auto")


def test_attention_implementation():
    mine = tiny_transformers_model("llama")
    assert lacscope.load_model(mine, hooks="residual").original_model.config._attn_implementation == "sdpa"
    eager = lacscope.load_model(mine, hooks="residual", attn_implementation="eager")
    assert eager.original_model.config._attn_implementation == "eager"
    assert mine.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match=r"attn_implementation='sdpa' with hooks='full'.*hooks='residual'"):
        lacscope.load_model(mine, attn_implementation="sdpa")


# --- language models inside wrappers --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "eyes", "inside"),
    [
        ("llava", {"model_type": "llama"}, CLIP, "LlamaForCausalLM"),
        ("mistral3", {"model_type": "mistral"}, {**CLIP, "model_type": "pixtral"}, "MistralForCausalLM"),
        (
            "gemma3",
            {"model_type": "gemma3_text", "head_dim": 8, "query_pre_attn_scalar": 8},
            {**CLIP, "model_type": "siglip_vision_model"},
            "Gemma3ForCausalLM",
        ),
        ("aya_vision", {"model_type": "cohere2"}, {**CLIP, "model_type": "siglip_vision_model"}, "Cohere2ForCausalLM"),
        ("qwen2_vl", {"rope_parameters": MROPE, "image_token_id": 3}, QWEN_EYES, "Qwen2ForCausalLM"),
    ],
)
def test_of_a_wrapper_the_language_model_is_loaded(
    kind: str, text: dict[str, Any], eyes: dict[str, Any], inside: str, tmp_path: Path
):
    config = AutoConfig.for_model(kind, text_config={**TEXT, **text}, vision_config=eyes)
    torch.manual_seed(0)
    wrapper = AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for parameter in wrapper.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4.0)
    wrapper.save_pretrained(tmp_path)
    model = lacscope.load_model(tmp_path, hooks="residual")
    assert type(model.original_model).__name__ == inside
    with torch.no_grad():
        wanted = wrapper(input_ids=IDS).logits
    assert torch.allclose(logits_of(model), wanted, atol=1e-5)
    assert lacscope.trace(model, IDS, max_new_tokens=2).sizes["layer"] == 3


def test_a_model_without_a_causal_language_model_is_refused_in_a_sentence(tmp_path: Path):
    AutoConfig.for_model("t5").save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"is a model of type 't5'.*decoders that predict the next") as said:
        lacscope.load_model(tmp_path)
    assert len(str(said.value)) < 300


def test_a_class_that_transformerlens_does_not_know_is_refused_in_a_sentence():
    mine = tiny_transformers_model("llama")
    strange = type("StrangeForCausalLM", (type(mine),), {})
    mine.__class__ = strange
    with pytest.raises(UnsupportedModelError, match=r"TransformerLens has no bridge for StrangeForCausalLM; its"):
        lacscope.load_model(mine)


def test_a_class_that_transformerlens_spells_otherwise(tmp_path: Path):
    from transformers import AutoModelForCausalLM

    options = {key: value for key, value in TEXT.items() if key != "model_type"}
    config = AutoConfig.for_model("phimoe", **options, num_local_experts=2, num_experts_per_tok=1)
    theirs = AutoModelForCausalLM.from_config(config).eval()
    model = lacscope.load_model(theirs, hooks="residual")
    assert torch.allclose(logits_of(model), logits_of(theirs), atol=1e-5)


# --- near misses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smollm2-135m", "SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-instruct"])
def test_did_you_mean(name: str, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import HfApi

    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    with pytest.raises(ModelLoadError, match=r"Did you mean 'smollm2-135m-instruct'\?"):
        lacscope.load_model(name)


def test_a_path_with_a_slip_of_the_pen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tiny-llama").mkdir()
    (tmp_path / "tiny-llama" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelLoadError, match=r"no model at tiny-lama: .* Did you mean 'tiny-llama'\?"):
        lacscope.load_model("./tiny-lama")


def test_weights_that_are_not_there_are_not_made_up(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    tiny_transformers_model("llama").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"no weights for 1 of LlamaForCausalLM's parameters \(.*layers\.2\.mlp"):
        lacscope.load_model(tmp_path)


def test_a_damaged_folder_is_refused_in_a_sentence(tmp_path: Path):
    tiny_transformers_model("llama").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match=r"cannot be read from") as said:
        lacscope.load_model(tmp_path)
    assert len(str(said.value)) < 500


@pytest.mark.parametrize(("dtype", "wanted"), [("float32", "mps"), ("float64", "cpu")])
def test_mps_is_taken_where_there_is_one(dtype: str, wanted: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert models._resolve_device(None, models.TORCH_DTYPES[dtype]).type == wanted
