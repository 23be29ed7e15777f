"""Wheel and sdist: they build, carry the data, and install into a fresh environment."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CARRIED = {
    "lacscope/py.typed",
    "lacscope/__init__.pyi",
    "lacscope/data/pocket.jsonl",
    "lacscope/data/function_words.txt",
    "lacscope/plots/lacscope.mplstyle",
}

pytestmark = [pytest.mark.slow, pytest.mark.once]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_wheel_carries_data_and_nothing_else(built: Path):
    names = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    assert names >= CARRIED
    assert all(name.startswith(("lacscope/", "lacscope-")) for name in names)


def test_sdist_carries_data_tests_and_licence(built: Path):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert names >= {*CARRIED, "LICENSE", "README.md", "tests/conftest.py"}


def test_installs_and_runs_in_a_fresh_environment(built: Path, tmp_path: Path):
    """The wheel alone in a new environment, its dependencies lent by this one."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    wheel = str(next(built.glob("*.whl")))
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, timeout=300)
    lent = next(path for path in sys.path if path.endswith("site-packages"))
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # After the environment's own packages, so that lacscope comes from the wheel.
    (Path(site) / "lent.pth").write_text(lent + "\n")
    code = """
import lacscope, sys
from lacscope import plots
from lacscope.tasks._pocket import load_pocket
from lacscope.testing import synthetic_trace
assert lacscope.__file__.startswith(sys.prefix), lacscope.__file__
assert len(load_pocket()) == 96
with plots.style():
    plots.plot_void_map(synthetic_trace())
print(lacscope.__version__)
"""
    done = subprocess.run(
        [python, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0.1.0"
    help_text = subprocess.run(
        [tmp_path / "env" / "bin" / "lacscope", "--help"], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert "trace, detect and skip voids" in help_text
