"""Links of a page to what lies outside docs/ in the repository: on the site they go to the page that shows it.

So that a page reads right on both, on the site and in the repository.
"""

import posixpath
import re

from sphinx.application import Sphinx

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "figures/README.md": "gallery/index.md",
    "figures/index.md": "gallery/index.md",
    "figures/report.md": "gallery/report.md",
}
_LINK = re.compile(r"\]\((?!https?:|#)([^)\s#]+)((?:#[^)\s]*)?)\)")


def _rewrite(app: Sphinx, docname: str, source: list[str]) -> None:
    folder = posixpath.dirname(docname)

    def page_of(match: re.Match[str]) -> str:
        inside = posixpath.normpath(posixpath.join("docs", folder, match[1]))
        page = PAGES.get(inside)
        return match[0] if page is None else f"]({posixpath.relpath(page, folder or '.')}{match[2]})"

    source[0] = _LINK.sub(page_of, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
