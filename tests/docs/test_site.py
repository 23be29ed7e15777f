"""The documentation site, built once: no warning, every page, public name, link and anchor, nothing from elsewhere."""

import inspect
import os
import posixpath
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

import lacscope
from lacscope import plans, plots, rules, tasks

pytestmark = [pytest.mark.once, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PAGES = (
    "index", "get_started", "void_maps", "rules", "plans", "findings", "reproduce", "published_code",
    "replication_notes", "preregistration", "exactness", "performance", "architectures", "adding_models", "glossary",
    "measures", "changelog", "contributing", "gallery/index", "gallery/void_map", "gallery/report", "gallery/commands",
    "api/index",
    *(f"concepts/{name}" for name in ("voids", "effects", "phases", "sinks", "statistics", "analyses")),
    *(f"howto/{name}" for name in (
        "own_model", "own_rule", "own_measure", "own_task", "save_and_share", "dataframes", "two_models",
        "long_prompts", "gpu", "slurm", "quantised", "compose", "given_answers",
    )),
)  # fmt: skip
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}


class Page(NamedTuple):
    """What the HTML of a page links to, loads from, and can be linked at."""

    links: list[str]
    loads: list[str]
    anchors: set[str]


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page([], [], set())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.page.anchors.add(given["id"])
        if tag == "a" and "href" in given:
            self.page.links.append(given["href"])
        if tag in LOADS and LOADS[tag] in given:
            self.page.loads.append(given[LOADS[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-d", str(out / "doctrees")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [*command, str(ROOT / "docs"), str(out / "html")], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    found = {}
    for path in site.rglob("*.html"):
        reader = Reader()
        reader.feed(path.read_text())
        found[path.relative_to(site).as_posix()] = reader.page
    return found


def test_the_pages_are_there(pages: dict[str, Page]) -> None:
    assert not {f"{name}.html" for name in PAGES} - set(pages)


def public_names(module: ModuleType) -> set[str]:
    """The names that a package lists in its ``__init__``, as ``import ... as ...``; lacscope's own are no modules."""
    if module is lacscope:
        return {name for name in dir(lacscope) if not inspect.ismodule(getattr(lacscope, name))}
    return set(re.findall(r"import \w+ as ([A-Za-z]\w*)", inspect.getsource(module)))


@pytest.mark.parametrize("module", [lacscope, plots, rules, plans, tasks], ids=lambda one: one.__name__)
def test_every_public_name_is_in_the_api(module: ModuleType, pages: dict[str, Page]) -> None:
    anchors = {anchor for name, page in pages.items() if name.startswith("api/") for anchor in page.anchors}
    names = public_names(module)
    assert names
    missing = {name for name in names if not {f"lacscope.{name}", f"{module.__name__}.{name}"} & anchors}
    assert not missing


def test_every_committed_figure_is_in_the_gallery(pages: dict[str, Page]) -> None:
    shown = {Path(one).name for name, page in pages.items() if name.startswith("gallery/") for one in page.loads}
    committed = {path.name for path in (ROOT / "figures").rglob("*.png") if "parts" not in path.parts}
    assert committed
    assert not committed - shown


def test_every_link_and_anchor_holds(pages: dict[str, Page], site: Path) -> None:
    broken = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            path = unquote(parts.path)
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            if target in pages:
                held = not parts.fragment or unquote(parts.fragment) in pages[target].anchors
            else:
                held = (site / target).is_file()
            if not held:
                broken.append(f"{name}: {link}")
    assert not broken


def test_nothing_is_loaded_from_elsewhere(pages: dict[str, Page], site: Path) -> None:
    loads = [f"{name}: {one}" for name, page in pages.items() for one in page.loads]
    sheets, scripts = list(site.rglob("*.css")), list(site.rglob("*.js"))
    assert len(loads) > 10 * len(pages)
    assert sheets
    assert scripts
    assert not [one for one in loads if re.search(r": (\w+:)?//", one)]
    outside = re.compile(r"(@import|url\()\s*['\"]?(https?:)?//")
    assert not [path for path in sheets if outside.search(path.read_text())]
    fetching = re.compile(r"(\.src\s*=|fetch\(|import\(|\bfrom)\s*['\"`](https?:)?//")
    assert not [path for path in scripts if fetching.search(path.read_text())]


def test_every_link_holds_in_the_repository() -> None:
    """The same pages read there: what they link to is committed."""
    broken = []
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        if "gallery" in path.parts:
            continue
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\((?!https?:|#)([^)\s#]+)", text):
            if not (path.parent / link).exists():
                broken.append(f"{path.relative_to(ROOT)}: {link}")
    assert not broken
