"""The README: short, and what it shows and links is there. Its code runs in tests/docs/test_pages.py."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_it_has_at_most_900_words() -> None:
    assert len(README.split()) <= 900


def test_linked_files_exist() -> None:
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert "figures/void_map.png" in linked
    assert not [path for path in linked if not (ROOT / path).exists()]


def test_it_points_to_the_documentation() -> None:
    assert len(set(re.findall(r"\]\((docs/howto/\w+\.md)\)", README))) >= 4


def test_the_citation_is_of_this_version() -> None:
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"\nversion: {version[1]}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version[1]}" in (ROOT / "CHANGELOG.md").read_text()
