"""The links in Markdown files and notebooks lead to files and cells that exist."""

import re

import pytest

from course_utils.machine import notebooks
from tests.cells import ROOT

PATTERNS = (
    *("*.md", "docs/*.md", "course_utils/data/*.md", "exercises/*.md"),
    *("lectures/*.ipynb", "exercises/*/*.ipynb", "solutions/*/*.ipynb"),
)
PAGES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))


def prose(path):
    """Return the Markdown text of a notebook or of a Markdown file."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = notebooks.load(path)["cells"]
    return "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    for target, cell in re.findall(r"\]\(([^)#:\s]+)(?:#([^)\s]*))?\)", prose(path)):
        page = path.parent / target
        assert page.exists(), target
        if cell and page.suffix == ".ipynb":
            # On the site, only code cells have anchors.
            kinds = {each["id"]: each["cell_type"] for each in notebooks.load(page)["cells"]}
            assert kinds.get(cell) == "code", f"{target}#{cell}"
