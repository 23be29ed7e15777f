"""Facts of weights that are packed, offloaded or kept in tensor subclasses: digest, cost, z-density, gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lacscope
from lacscope.model_measures import z_density
from lacscope.models._checks import UnsupportedModelError
from lacscope.models._facts import model_attrs, model_cost, quantization, weights_digest
from lacscope.models.adapters import build_bridge
from lacscope.testing import tiny_model, tiny_transformers_model

IDS = [[5, 6, 7, 8, 30, 31]]
LAC = lacscope.L2AdaptiveComputation()


class PackedLinear(nn.Module):
    """A linear map as GPTQ's kernels keep it: integers and scales in buffers, no parameter."""

    def __init__(self, linear: nn.Linear, sharper: float = 1.0, saved: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scales = linear.weight.detach().abs().amax(1) / 7
        self.register_buffer("qweight", (linear.weight.detach() / scales[:, None]).round().to(torch.int32))
        self.register_buffer("scales", scales * sharper, persistent=saved)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.qweight * self.scales[:, None]).T


def packed(sharper: float = 1.0, hooks: str = "residual", saved: bool = True) -> Any:
    hf_model = tiny_transformers_model("llama")
    for layer in hf_model.model.layers:
        for owner in (layer.self_attn, layer.mlp):
            for name, module in list(owner.named_children()):
                if isinstance(module, nn.Linear):
                    setattr(owner, name, PackedLinear(module, sharper, saved))
    return build_bridge(hf_model, None, name="packed", residual_only=hooks == "residual")


@pytest.mark.parametrize("hooks", ["full", "residual"])
def test_packed_weights_cost_what_their_maps_cost(hooks: str):
    assert model_cost(packed(hooks=hooks)) == model_cost(tiny_model("llama"))
    for effect in ("readout", "bypass"):
        trace = lacscope.trace(packed(hooks=hooks), IDS, rule=LAC, effect=effect)
        share = lacscope.skippable_compute(trace).sel(phase="prefill")
        assert bool(((share >= 0) & (share <= 1)).all())


def test_packed_weights_that_trace_otherwise_have_other_digests():
    one, same, other = packed(), packed(), packed(sharper=1.5)
    assert weights_digest(one) == weights_digest(same)
    assert weights_digest(one) != weights_digest(other)
    assert weights_digest(packed(saved=False)) != weights_digest(packed(sharper=1.5, saved=False))
    norms = [lacscope.trace(model, IDS)["resid_post_norm"] for model in (one, other)]
    assert not norms[0].equals(norms[1])
    assert weights_digest(packed(hooks="full")) == weights_digest(one)


def test_packed_weights_are_named_and_their_numbers_refused():
    model = packed()
    assert quantization(model) == "PackedLinear x 28"
    assert lacscope.trace(model, IDS).attrs["quantization"] == "PackedLinear x 28"
    with pytest.raises(UnsupportedModelError, match=r"weights of a PackedLinear are packed, and cannot be read as a"):
        z_density(model)
    with pytest.raises(UnsupportedModelError, match=r"packed are quantised \(PackedLinear\), and there are no deriv"):
        lacscope.integrated_gradients(model, IDS, [[7]])


class Doubled(Tensor):
    """A tensor that keeps its numbers in two others, by the protocol of torchao's and quanto's."""

    data_: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, data_: Tensor, scale: Tensor) -> "Doubled":
        return Tensor._make_wrapper_subclass(cls, data_.shape, dtype=torch.float32)

    def __init__(self, data_: Tensor, scale: Tensor) -> None:
        self.data_, self.scale = data_, scale

    def __tensor_flatten__(self) -> tuple[list[str], dict[str, Any]]:
        return ["data_", "scale"], {}

    def dequantize(self) -> Tensor:
        return self.data_ * self.scale

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return Doubled(args[0].data_, args[0].scale)
        plain = [one.dequantize() if isinstance(one, Doubled) else one for one in args]
        return func(*plain, **(kwargs or {}))


def doubled(factor: float) -> Any:
    hf_model = tiny_transformers_model("llama", n_layers=2)
    for layer in hf_model.model.layers:
        weight = layer.mlp.down_proj.weight.detach()
        kept = Doubled(weight / 2, torch.tensor(factor))
        layer.mlp.down_proj.weight = nn.Parameter(kept, requires_grad=False)
    return build_bridge(hf_model, None, name="doubled", residual_only=True)


def test_tensor_subclasses_are_digested_and_dequantised():
    plain, model = tiny_model("llama", n_layers=2, hooks="residual"), doubled(2.0)
    assert lacscope.trace(model, IDS)["resid_post_norm"].equals(lacscope.trace(plain, IDS)["resid_post_norm"])
    assert weights_digest(model) == weights_digest(doubled(2.0)) != weights_digest(doubled(3.0))
    assert model_cost(model) == model_cost(plain)
    assert z_density(model)["z_density"].equals(z_density(plain)["z_density"])
    assert quantization(model) == f"{Doubled.__module__.partition('.')[0]} Doubled x 2"


# TransformerLens 3.9 makes the zero bias that it adds to a head a parameter, so digests differ from one to the other.
@pytest.mark.once
@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_offloaded_weights_are_digested_as_the_same_model(place: str, tmp_path: Path):
    from accelerate import cpu_offload, disk_offload

    plain = tiny_model("llama", hooks="residual")
    hf_model = tiny_transformers_model("llama")
    if place == "cpu":
        cpu_offload(hf_model, torch.device("cpu"))
    else:
        disk_offload(hf_model, tmp_path, torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in hf_model.parameters())
    model = build_bridge(hf_model, None, name="offloaded", residual_only=True)
    assert weights_digest(model) == weights_digest(plain)
    assert model_cost(model) == model_cost(plain)
    assert z_density(model)["z_density"].equals(z_density(plain)["z_density"])


def test_weights_that_are_nowhere_are_refused():
    with torch.device("meta"):
        hf_model = tiny_transformers_model("llama")
    model = build_bridge(hf_model, None, name="nowhere", residual_only=True)
    with pytest.raises(UnsupportedModelError, match=r"is on the meta device, where no values are"):
        weights_digest(model)


def test_a_fused_projection_is_counted_once():
    # 32 x 96 of queries, keys and values, 32 x 32 out, and two matrices of 32 x 128 in the MLP.
    matrices = 32 * 96 + 32 * 32 + 2 * 32 * 128
    for hooks in ("full", "residual"):
        cost = model_cost(tiny_model("gpt2", hooks=hooks))
        assert cost is not None
        assert cost.block == 2 * matrices


def test_buffers_that_are_saved_belong_to_the_model():
    def routed(bias: float) -> Any:
        hf_model = tiny_transformers_model("llama")
        hf_model.model.layers[0].register_buffer("correction", torch.full((4,), bias))
        return build_bridge(hf_model, None, name="routed", residual_only=True)

    assert weights_digest(routed(0.0)) == weights_digest(routed(0.0)) != weights_digest(routed(1.0))
    # What is not saved is made of the config, and leaves the digest of a plain model as it always was.
    assert weights_digest(tiny_model("llama")) == weights_digest(tiny_model("llama", hooks="residual"))


def test_plain_weights_say_nothing_of_quantisation():
    assert "quantization" not in model_attrs(tiny_model("llama"))


@pytest.mark.once
@pytest.mark.slow
def test_the_demo_models_weights_are_those_of_its_committed_runs(monkeypatch: pytest.MonkeyPatch):
    # Those runs were made before the digest had the config.
    monkeypatch.setattr("lacscope.models._facts.deciding_settings", lambda root: "")
    model = lacscope.load_model("smollm2-135m-instruct", hooks="residual")
    assert weights_digest(model) == "807835858de010a295552159bce95e2d29fcdafc8caaa0980fb389c7aa929205"
    assert model_attrs(model)["quantization"] == "GGUF Q4_1 x 210, F32 x 61, Q8_0 x 1, dequantised"
