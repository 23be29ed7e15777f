"""Where things are: programs apart from pages, and every target of make in its help."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import conftest
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.once


def test_docs_holds_pages_and_what_sphinx_needs() -> None:
    docs = ROOT / "docs"
    programs = {path.relative_to(docs).parts[0] for path in docs.rglob("*.py") if "gallery" not in path.parts}
    assert programs == {"conf.py", "_extensions"}, "a program that writes a page goes to tools/"


def test_help_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    helped = set(re.findall(r'^\t@echo "make ([a-z0-9-]+) ', makefile, re.MULTILINE))
    assert helped == set(phony[1].split()) - {"help"}


def test_the_longest_files_are_there_and_come_first() -> None:
    tests = ROOT / "tests"
    assert [name for name in conftest.LONGEST if not (tests / name).is_file()] == []
    names = ["cli/test_app.py", *reversed(conftest.LONGEST), "rules/test_lac.py"]
    items: list[Any] = [SimpleNamespace(path=tests / name) for name in names]
    conftest.pytest_collection_modifyitems(items)
    assert [item.path for item in items] == [
        tests / name for name in (*conftest.LONGEST, "cli/test_app.py", "rules/test_lac.py")
    ]
    # Left to itself xdist begins with the files of many short tests.
    assert "--dist loadfile --no-loadscope-reorder" in (ROOT / "Makefile").read_text()
    assert "pytest" not in (ROOT / ".ci" / "run").read_text(), "it calls make, which sets the order"


def test_a_file_of_tests_names_the_file_that_it_tests() -> None:
    """``tests/room/test_x.py`` or ``test_x_more.py`` is of ``lacscope/room/_x.py``; what crosses files is in whole/."""
    rooms = {path.name for path in (ROOT / "lacscope").iterdir() if path.is_dir()}
    odd = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        *folders, name = path.relative_to(ROOT / "tests").parts
        if folders and folders[0] in rooms:
            words = name.removeprefix("test_").removesuffix(".py").split("_")
            names = ["_".join(words[:n]) for n in range(1, len(words) + 1)]
            if not any((ROOT / "lacscope" / Path(*folders) / f"_{one}.py").exists() for one in names):
                odd.append("/".join((*folders, name)))
    assert odd == []
