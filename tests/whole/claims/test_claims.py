"""Every number of the findings, in docs/ and in README.md, is the committed files' own.

``findings.ALL`` computes what may be said, as fragments of text. Each fragment must stand in a document, and once
they are taken out of its sections of results no number may be left but names, alphas and the like: a new number in
the prose fails until it is computed.
"""

import re
from collections.abc import Callable, Iterator

import findings
import pytest
from committed import ROOT

pytestmark = pytest.mark.once

PAGES = ("docs/findings.md", "docs/concepts/effects.md", "docs/published_code.md")
FOUND = "What was found"  # the README's section of results
# Numbers that are no measurement: names, settings, places in the model, links and code.
NAMES = re.compile(
    r"SmolLM2(-135M-Instruct)?|Qwen2\.5-Coder(-0\.5B-Instruct)?|WikiText-2|GSM8K|LAC|L2 Adaptive|"
    r"[Aa]lpha [\d.]+( to [\d.]+)?|[Ll]ayers? \d+(, \d+)*( and \d+)?|position 0|95 %|arXiv \d+\.\d+|"
    r"\[[^\]]*\]\([^)]*\)|`[^`]*`|!\[[^\]]*\]\([^)]*\)|\b\d+\. |float32|bfloat16|\| alpha 0( \| [\d.]+)+ \|"
)


def on_one_line(text: str) -> str:
    return " ".join(text.split())


FINDINGS = on_one_line((ROOT / PAGES[0]).read_text())


def sections() -> dict[str, str]:
    """The pages and the section of the README that hold results, each on one line."""
    (found,) = re.findall(rf"^## {FOUND}\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return {"README": on_one_line(found)} | {page: on_one_line((ROOT / page).read_text()) for page in PAGES}


def fragments() -> list[str]:
    return [fragment for claims in findings.ALL for fragment in claims()]


@pytest.mark.parametrize("claims", findings.ALL, ids=lambda one: one.__name__)
def test_what_the_files_have_is_what_is_said(claims: Callable[[], Iterator[str]]) -> None:
    where = " ".join([FINDINGS, *sections().values()])
    said = list(claims())
    assert said
    missing = [fragment for fragment in said if fragment not in where]
    assert not missing


@pytest.mark.parametrize("name", sections())
def test_no_number_stands_there_that_is_not_computed(name: str) -> None:
    left = sections()[name]
    for fragment in sorted(fragments(), key=len, reverse=True):
        left = left.replace(fragment, " ~ ")
    left = NAMES.sub(" ", left)
    assert [left[max(0, at.start() - 60) : at.end() + 30] for at in re.finditer(r"\d+(\.\d+)?", left)] == []


def test_a_wrong_or_a_new_number_is_found() -> None:
    """The guard itself: one digit changed leaves a number that is not computed."""
    row = next(findings.phases())
    assert re.search(r"\d", NAMES.sub(" ", row))
    assert row.replace("+0.4", "+0.5") not in FINDINGS


def test_links_resolve() -> None:
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "docs" / "findings.md").read_text())
    assert linked
    assert not [path for path in linked if not (ROOT / "docs" / path).exists()]
