"""The README: its code runs, its commands and files exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_linked_files_exist():
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert "figures/void_map.png" in linked
    assert not [path for path in linked if not (ROOT / path).exists()]


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z0-9-]+)", README + (ROOT / "CONTRIBUTING.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_no_benchmark_placeholder_is_left():
    assert "BENCH" not in README


@pytest.mark.slow
def test_notebook_lines_run():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), scope)
    assert scope["usage"].dims == ("alpha", "phase", "layer")  # type: ignore[attr-defined]
    assert scope["logits"].shape[-1] == 49152  # type: ignore[attr-defined]
