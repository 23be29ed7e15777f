"""The README: short, and what it shows and links is there. Its code runs in tests/docs/test_pages.py."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_it_has_at_most_900_words() -> None:
    assert len(README.split()) <= 900


def test_linked_files_exist() -> None:
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert "figures/smollm2-135m-instruct/pocket/void_map.png" in linked
    assert not [path for path in linked if not (ROOT / path).exists()]


def test_it_points_to_the_documentation() -> None:
    assert len(set(re.findall(r"\]\((docs/howto/\w+\.md)\)", README))) >= 4


def test_the_citation_is_of_this_version() -> None:
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"\nversion: {version[1]}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version[1]}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
@pytest.mark.once
def test_a_type_checker_knows_the_names_that_its_code_uses(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "block.py").write_text(
        block + "reveal_type(lacscope.trace)\nreveal_type(lacscope.voids(t))\nreveal_type(model)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), tmp_path / "block.py"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert 'Revealed type is "def (' in done.stdout
    assert "VoidMask" in done.stdout
    assert 'Revealed type is "lacscope.models._model.Model"' in done.stdout
