"""A digest tells models of equal weights and other settings apart, and none that differ in their names alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import lacscope
from lacscope.models import weights_digest
from lacscope.models.adapters import build_bridge
from lacscope.testing import tiny_model, tiny_transformers_model

IDS = [[5, 17, 3, 9, 2, 40, 11]]


def bridged(hf_model: Any) -> Any:
    return build_bridge(hf_model, None, name="model", residual_only=True)


def of(architecture: str, **settings: Any) -> Any:
    """A tiny model of equal weights and other settings."""
    base = tiny_transformers_model(architecture)
    other = type(base)(type(base.config)(**{**base.config.to_dict(), **settings})).eval()
    other.load_state_dict(base.state_dict())
    return bridged(other)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {"rms_norm_eps": 1e-2}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}),
        ("llama", {"hidden_act": "gelu"}),
        ("mistral", {"sliding_window": 2}),
        ("gemma2", {"attn_logit_softcapping": 0.01}),
    ],
)
def test_models_of_equal_weights_that_trace_otherwise_have_other_digests(architecture: str, settings: dict[str, Any]):
    one, other = of(architecture), of(architecture, **settings)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    norms = [lacscope.trace(model, IDS)["resid_post_norm"] for model in (one, other)]
    assert not norms[0].equals(norms[1])
    assert weights_digest(one) == weights_digest(of(architecture)) != weights_digest(other)


def test_names_paths_and_hooks_leave_the_digest_alone(tmp_path: Path):
    hf_model = tiny_transformers_model("llama")
    hf_model.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert reloaded.config.name_or_path != hf_model.config.name_or_path
    digest = weights_digest(bridged(hf_model))
    assert weights_digest(bridged(reloaded.eval())) == digest
    assert weights_digest(tiny_model("llama")) == digest


def test_a_setting_that_is_changed_later_makes_another_model():
    model = tiny_model("llama", hooks="residual")
    before = lacscope.trace(model, IDS).attrs["weights"]
    model.original_model.config.rms_norm_eps = 0.5
    assert lacscope.trace(model, IDS).attrs["weights"] != before
