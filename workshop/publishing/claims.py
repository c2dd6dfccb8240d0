"""Check the claims in docs/slides-against-measurement.md against the outputs of the lectures.

Each row of this page makes a claim, links to the cell that proves the claim, and quotes the output
of the cell:

    [02, load-slide](../lectures/02_memory_calculator.ipynb#load-slide): `28.00 GB`, `26.08 GiB`
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.machine.notebooks import load_node

PAGE = "docs/slides-against-measurement.md"
SHOWN_BY = re.compile(
    r"\]\(\.\./lectures/(?P<lecture>\w+)\.ipynb#(?P<cell>[\w-]+)\)"
    r"(?P<quotes>(?:[:,]\s+`[^`]+`)*)"
)


@dataclass(frozen=True)
class Evidence:
    """A cell that a claim links to, and the texts that the claim quotes from its output."""

    lecture: str
    cell: str
    quotes: tuple[str, ...]


def evidence(folder: Path) -> list[Evidence]:
    """Return the cells that the page of claims links to, in order; empty if the page is missing."""
    path = folder / PAGE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [
        Evidence(row["lecture"], row["cell"], tuple(re.findall("`([^`]+)`", row["quotes"])))
        for row in SHOWN_BY.finditer(text)
    ]


def unsupported(folder: Path, notebooks: list[Path]) -> list[str]:
    """Return a message for each claim that the executed lectures in `notebooks` don't support."""
    outputs = {path.stem: dict(shown_outputs(path)) for path in notebooks}
    messages = []
    for claim in evidence(folder):
        output = outputs.get(claim.lecture, {}).get(claim.cell)
        cell = f"cell {claim.cell} of {claim.lecture}"
        if output is None:
            messages.append(f"{PAGE}: {cell} does not exist")
        elif not claim.quotes:
            messages.append(f"{PAGE}: nothing is quoted from the output of {cell}")
        else:
            missing = [quote for quote in claim.quotes if quote not in output]
            messages += [f"{PAGE}: {cell} does not show {quote!r}" for quote in missing]
    return messages


def shown_outputs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the id of each code cell and the text that a reader sees in its outputs."""
    for cell in load_node(path).cells:
        if cell.cell_type == "code":
            texts = [text for output in cell.outputs for text in _texts(output)]
            yield cell.id, " ".join(" ".join(texts).split())


def _texts(output: Any) -> Iterator[str]:
    data = output.get("data", {})
    yield output.get("text", "")
    yield data.get("text/plain", "")
    tags = r"<style.*?</style>|<[^>]*>"
    yield html.unescape(re.sub(tags, " ", data.get("text/html", ""), flags=re.DOTALL))
