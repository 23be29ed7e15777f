"""Models whose weights accelerate keeps on disk between calls: real ones, no emulation."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import lacscope
from lacscope.models.adapters import adapt
from lacscope.models.adapters._offloading import running_device
from lacscope.testing import tiny_transformers_model

pytestmark = pytest.mark.once

LAYERS = [f"model.layers.{layer}" for layer in range(4)]
PARTS = ("model.embed_tokens", *LAYERS, "model.norm", "model.rotary_emb", "lm_head")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("saved")
    tiny_transformers_model("llama").save_pretrained(found)
    return found


@pytest.mark.parametrize("on_disk", [LAYERS[1:3], ["model.embed_tokens", LAYERS[0], "lm_head"]])
def test_layers_on_disk_change_no_number(folder: Path, on_disk: list[str]) -> None:
    places = {part: "disk" if part in on_disk else "cpu" for part in PARTS}
    plain = lacscope.load_model(folder, hooks="residual")
    lent = lacscope.load_model(folder, hooks="residual", device_map=places)
    first = next(lent.original_model.get_submodule(on_disk[0]).parameters())
    assert first.device.type == "meta", "nothing was offloaded"
    assert adapt(lent).device == torch.device("cpu")
    options: dict[str, Any] = {"rule": lacscope.L2AdaptiveComputation(0.8), "effect": "readout", "max_new_tokens": 3}
    expected, found = (lacscope.trace(model, [[5, 17, 60], [9, 3]], **options) for model in (plain, lent))
    assert found.drop_attrs().identical(expected.drop_attrs())


def hooked(*places: Any) -> nn.Module:
    """A module without values, and what accelerate notes on it."""
    module = nn.Linear(2, 2, device="meta")
    hooks = [SimpleNamespace(execution_device=place) for place in places]
    module._hf_hook = hooks[0] if len(hooks) == 1 else SimpleNamespace(hooks=hooks)
    return module


def test_a_module_without_values_runs_where_accelerate_says() -> None:
    otherwise = torch.device("cpu", 7)
    assert running_device(hooked("cuda:1"), otherwise) == torch.device("cuda", 1)
    assert running_device(hooked(None, "cuda:1"), otherwise) == torch.device("cuda", 1), "several hooks in one"
    assert running_device(nn.Sequential(hooked("meta"), hooked("cuda:2")), otherwise) == torch.device("cuda", 2)
    assert running_device(nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2)), otherwise).type == "cpu"
    assert running_device(nn.Linear(2, 2, device="meta"), otherwise) == otherwise
