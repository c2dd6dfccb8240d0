"""Make the cells of notebooks, and write notebooks as Jupyter does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from course_utils.machine import notebooks

ROOT = Path(__file__).resolve().parents[1]
# The lectures of the course.
LECTURES = notebooks.lectures(ROOT)
# The first cell of a lecture in a test.
OPENING = """# 01 A lecture

- **Slides:** Introduction
- **Question:** Does it work?
- **You will be able to:** say so
- **Study time:** 5 minutes
- **Run time:** 1 minute on CPU, 1.2 GB of memory
- **You need to know first:** nothing
"""


def text_cell(name: str, source: str) -> dict[str, Any]:
    """Return a cell with text in Markdown."""
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


def code_cell(name: str, source: str, *outputs: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return a code cell that has not been run, with outputs if they are given."""
    cell = {"cell_type": "code", "id": name, "metadata": metadata, "source": source}
    return cell | {"execution_count": None, "outputs": list(outputs)}


def printed(text: str) -> dict[str, Any]:
    """Return the output of a cell that prints a text."""
    return {"output_type": "stream", "name": "stdout", "text": text}


def shown(**data: str) -> dict[str, Any]:
    """Return the output of a cell that displays data, such as text_html="<p>"."""
    forms = {kind.replace("_", "/"): value for kind, value in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": forms}


def notebook(*cells: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return a notebook with the course's kernel."""
    metadata |= {"kernelspec": notebooks.KERNEL, "language_info": notebooks.LANGUAGE}
    return {"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def write_notebook(path: Path, content: dict[str, Any]) -> Path:
    """Write a notebook file as Jupyter writes it, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebooks.dump(content), encoding="utf-8")
    return path
