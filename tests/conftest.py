"""Fixtures shared by all tests. None needs the network.

``tiny``                 a random four-layer Llama bridge (vocabulary 97, context 128, no tokenizer); read-only
``tiny_with_tokenizer``  the same weights with a word-level tokenizer and a chat template; read-only
``make_tokenizer(...)``  that tokenizer, a new one: yours to edit
``demo``                 the demo model, every hook point; for tests marked ``slow``; read-only
``trace_fixture``        a synthetic trace: 3 samples, 12 layers, prefill and decode, uneven lengths; yours to edit
``command(*words)``      run the command line in this process: exit code and all that it printed
``run_python(code)``     run code in a fresh interpreter and return its output; for tests marked ``slow``
``unchecked``            no type checks of lacscope's signatures in this test: what a user sees of a wrong type
``no_hooks_left``        fails the test if a read-only model keeps a hook (on for every test)
"""

import os

# Tiny models: a second thread costs more than it brings, and on a busy machine ten times more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import matplotlib as mpl
import pytest
import xarray as xr
from word_tokenizer import word_tokenizer

from lacscope.testing import synthetic_trace

mpl.use("agg")

# Files that take minutes, the longest first: begun last, one would keep a single worker busy after all others are done.
LONGEST = (
    "whole/test_notebooks.py",
    "whole/test_interrupts.py",
    "whole/devices/test_pretend_gpus.py",
    "reproduction/sweep/test_runner.py",
    "guards/test_withheld.py",
    "whole/faults/test_faults.py",
    "analyze/test_catalogue.py",
    "reproduction/test_run.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    place = {here / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def tiny() -> Any:
    from lacscope.testing import tiny_model

    return tiny_model("llama")


@pytest.fixture(scope="session")
def tiny_with_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    from lacscope.models.adapters import build_bridge
    from lacscope.testing import tiny_transformers_model

    # Booting reads the tokenizer from its folder again, to have it prepend BOS.
    folder = tmp_path_factory.mktemp("tokenizer")
    word_tokenizer().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return build_bridge(tiny_transformers_model("llama"), tokenizer, name="tiny-llama", residual_only=False)


@pytest.fixture
def command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> Callable[..., tuple[int, str]]:
    from lacscope.cli import _app as cli

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["lacscope", *map(str, words)])
        monkeypatch.setattr(cli, "console", cli.Console(stderr=True, width=400))
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return call


@pytest.fixture
def make_tokenizer() -> Callable[..., Any]:
    return word_tokenizer


@pytest.fixture(scope="session")
def demo() -> Any:
    from lacscope import load_model

    return load_model("smollm2-135m-instruct")


@pytest.fixture
def trace_fixture() -> xr.Dataset:
    return synthetic_trace()


@pytest.fixture
def run_python() -> Callable[[str], str]:
    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def unchecked() -> Iterator[None]:
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(autouse=True)
def one_moment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results carry the time at which they were made: of two that are compared it is the same."""
    if "clock" not in request.keywords:
        for module in ("_provenance", "_results", "_schema"):
            monkeypatch.setattr(f"lacscope.traces.{module}.now", lambda: "2026-01-01T00:00:00+00:00")


@pytest.fixture(autouse=True)
def no_hooks_left(request: pytest.FixtureRequest) -> Iterator[None]:
    shared = {"tiny", "tiny_with_tokenizer", "demo"} & set(request.fixturenames)
    models = {name: request.getfixturevalue(name) for name in shared}
    yield
    if models:
        from lacscope.models.adapters import adapt

        hooked = [name for name, model in models.items() if adapt(model).user_hooked()]
        assert not hooked, f"the test left a hook on the shared model {hooked[0]!r}"


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
