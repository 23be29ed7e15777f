"""Real quantisation backends on a CPU: traced, told apart, dequantised where numbers are asked for, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BitsAndBytesConfig, QuantoConfig

import lacscope
from lacscope.model_measures import z_density
from lacscope.models._checks import UnsupportedModelError
from lacscope.models._facts import model_cost, weights_digest
from lacscope.testing import tiny_transformers_model

IDS = [[5, 6, 7, 8, 9, 30, 31, 32]]
BACKENDS: dict[str, tuple[Any, str]] = {
    "nf4": (BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"), "bitsandbytes nf4 x 14"),
    "int8": (BitsAndBytesConfig(load_in_8bit=True), "bitsandbytes int8 x 14"),
    "quanto int8": (QuantoConfig(weights="int8"), "quanto WeightQBytesTensor x 14"),
    "quanto int4": (QuantoConfig(weights="int4"), "quanto WeightQBitsTensor x 14"),
}

pytestmark = pytest.mark.filterwarnings("ignore")  # each backend's own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    tiny_transformers_model("llama", n_layers=2, **sizes).save_pretrained(path)
    return path


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_quantised_model(backend: str, folder: Path):
    config, said = BACKENDS[backend]
    plain = lacscope.load_model(folder, hooks="residual")
    model = lacscope.load_model(folder, hooks="residual", quantization_config=config)
    digest = weights_digest(model)
    traces = {
        effect: lacscope.trace(model, IDS, rule=lacscope.L2AdaptiveComputation(), effect=effect, max_new_tokens=3)
        for effect in ("observe", "readout", "bypass")
    }
    assert weights_digest(model) == digest != weights_digest(plain)  # a forward pass changes no weight
    assert traces["observe"].attrs["quantization"] == said
    assert traces["observe"].attrs["dtype"] == "float32"
    # Norms are the quantised transformers model's own, which hidden_states gives up to the last block.
    with torch.no_grad():
        states = model.original_model(torch.tensor(IDS), output_hidden_states=True).hidden_states
    wanted = torch.stack([state[0].norm(dim=-1) for state in states[:-1]])
    assert np.allclose(traces["observe"]["resid_pre_norm"].values[0, :, :8], wanted, rtol=1e-3)
    assert model_cost(model) == model_cost(plain)
    share = lacscope.skippable_compute(traces["bypass"])
    assert bool(((share >= 0) & (share <= 1)).all())
    # The dequantised weights' shares, close to those of the weights that were quantised.
    assert np.allclose(z_density(model)["z_density"], z_density(plain)["z_density"], atol=0.02)
    with pytest.raises(UnsupportedModelError, match=r"tiny are quantised .*no derivatives"):
        lacscope.integrated_gradients(model, IDS, [[7]])
    with pytest.raises(UnsupportedModelError, match=r"tiny are quantised .*no derivatives"):
        lacscope.identity_distance(model, IDS)


def test_double_quantisation_is_another_model(folder: Path):
    found = set()
    for twice in (False, True):
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=twice)
        found.add(weights_digest(lacscope.load_model(folder, hooks="residual", quantization_config=config)))
    assert len(found) == 2


def test_scales_alone_make_another_model(folder: Path):
    config = BACKENDS["nf4"][0]
    model = lacscope.load_model(folder, hooks="residual", quantization_config=config)
    before = weights_digest(model)
    model.original_model.model.layers[0].mlp.down_proj.weight.quant_state.absmax.mul_(4.0)
    assert weights_digest(model) != before


def test_a_plan_runs_on_quantised_weights(folder: Path):
    model = lacscope.load_model(folder, hooks="residual", quantization_config=BACKENDS["nf4"][0])
    with lacscope.plan(model, lacscope.Plan.skip(2, [1])), torch.no_grad():
        skipped = model(torch.tensor(IDS))
    bypassed = lacscope.trace(model, IDS, rule=lacscope.FixedLayers([1]), effect="bypass", logits="all")
    assert np.allclose(skipped[0].numpy(), bypassed["logits"].values[0], atol=1e-4)


def test_a_model_that_the_user_quantised(folder: Path):
    from transformers import AutoModelForCausalLM

    config = BACKENDS["nf4"][0]
    mine = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map={"": "cpu"})
    bridge = lacscope.load_model(mine, hooks="residual")
    ours = lacscope.load_model(folder, hooks="residual", quantization_config=config)
    assert weights_digest(bridge) == weights_digest(ours)
