"""Link lectures to docs/glossary.md, and make the list of words of a lecture.

The glossary has a heading of level 3 for each term. A lecture links to a term by its anchor:

    [perplexity](../docs/glossary.md#perplexity), [cache](../docs/glossary.md#KV-cache)

The cell `words` of a lecture lists each term of the glossary that the texts of the lecture use or
link to, with the first sentence of its entry. `course notebooks fix` writes this cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.notebook.guesses import SENTENCE_END
from workshop.publishing.lecture import MAP_CELL, WORDS_CELL

PAGE = "docs/glossary.md"
ENTRY = re.compile(r"^### (?P<term>[^\n]+)\n\n(?P<text>.*?)(?=^##|\Z)", re.M | re.S)
LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\([^()\s]*?glossary\.md#(?P<anchor>[^()\s]*)\)")
# Code, formulas, addresses of links, and HTML tags.
NOT_PROSE = re.compile(
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$(?!\s)[^$]*(?<!\s)\$(?!\d)|\]\([^)]*\)|</?[a-zA-Z!][^>]*>",
    re.S,
)
# These terms also have an everyday meaning, so they are listed only where a lecture links to them.
ORDINARY = {"bin", "block", "code", "level", "merge", "power"}
LIST = """\
<details>
<summary>Words of this lecture</summary>

{items}

</details>"""


@dataclass(frozen=True)
class Entry:
    """A term of the glossary, its anchor, and the first sentence of its entry."""

    term: str
    anchor: str
    meaning: str


def entries(folder: Path) -> dict[str, Entry]:
    """Return the entries of a course's glossary by their anchors; empty without a glossary."""
    page = folder / PAGE
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    found = [
        Entry(match["term"], _anchor(match["term"]), _first_sentence(match["text"]))
        for match in ENTRY.finditer(text)
    ]
    return {entry.anchor: entry for entry in found}


def _anchor(term: str) -> str:
    """Return the anchor of a heading in JupyterLab.

    On the site and on GitHub, anchors are in lower case. The site changes its links accordingly.
    """
    return re.sub(r"[^\w -]", "", term).replace(" ", "-")


def _first_sentence(text: str) -> str:
    plain = re.sub(r"\[([^\[\]]*)\]\([^()]*\)", r"\1", " ".join(text.split()))
    sentence = re.match(rf".*?{SENTENCE_END}", plain)
    return sentence[0] if sentence else plain


def broken_links(
    cells: Iterable[dict[str, Any]], known: Mapping[str, Entry]
) -> Iterator[tuple[str, str]]:
    """Yield the id of each cell with a link to a missing entry, and the anchor of the link."""
    for cell in cells:
        if cell.get("cell_type") == "markdown":
            anchors = (link["anchor"] for link in LINK.finditer(cell["source"]))
            yield from ((cell.get("id", ""), name) for name in anchors if name not in known)


def words(cells: list[dict[str, Any]], known: Mapping[str, Entry]) -> str:
    """Return the text of a lecture's cell `words`, with its terms in the order of their first use.

    The first cell of a lecture and generated cells are not searched for terms.
    """
    texts = [
        cell["source"]
        for cell in cells[1:]
        if cell.get("cell_type") == "markdown" and cell.get("id") not in (MAP_CELL, WORDS_CELL)
    ]
    # An anchor is prose for this search, so a linked term is found even if its text is different.
    text = "\n\n".join(LINK.sub(r" [\g<text>] #\g<anchor> ", text) for text in texts)
    prose = NOT_PROSE.sub(" ", text)
    places = {anchor: _first_use(entry, prose) for anchor, entry in known.items()}
    used = sorted((place, anchor) for anchor, place in places.items() if place is not None)
    items = [
        f"- [{known[anchor].term}](../{PAGE}#{anchor}) – {known[anchor].meaning}"
        for _, anchor in used
    ]
    return LIST.format(items="\n".join(items))


def _first_use(entry: Entry, prose: str) -> int | None:
    """Return where a text first uses a term or links to it; None if it does neither."""
    patterns = [rf"#{re.escape(entry.anchor)}\s"]
    if len(entry.term) > 2 and entry.term not in ORDINARY:
        any_case = "(?i:" if entry.term.islower() else "(?:"
        patterns.append(rf"(?<![\w#-]){any_case}{re.escape(entry.term)}(?:s|es)?)(?![\w-])")
    match = re.search("|".join(patterns), prose)
    return match.start() if match else None
