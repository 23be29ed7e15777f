"""One noun has one meaning: no two files give the same name to a class, a type or a constant."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PACKAGE = Path(__file__).parents[2] / "lacscope"


def nouns(tree: ast.Module) -> set[str]:
    """The names of classes, types and constants that a file defines, its private ones left out."""
    found = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if name[0].isupper()}


def test_no_two_files_define_the_same_noun() -> None:
    homes = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for noun in nouns(ast.parse(path.read_text())):
            homes[noun].append(path.relative_to(PACKAGE).as_posix())
    assert len(homes) > 300
    assert {noun: files for noun, files in homes.items() if len(files) > 1} == {}


def test_a_noun_is_seen_however_it_is_defined() -> None:
    source = "class A: ...\nB = int\nC: type = str\n_D = 3\ne = 4\n"
    assert nouns(ast.parse(source)) == {"A", "B", "C"}
