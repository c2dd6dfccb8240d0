"""Keep track of translated lectures: which cells are translated, and which are out of date.

    lectures/00_setup.ipynb ── extract ──► lectures/de/00_setup.ipynb ── a person translates
                                                 check: what is missing or stale?

A translation has the same cells as its original, with the same names. The metadata of each cell
contains a hash of the original cell from which it was translated. If the original changes, the
hashes differ, so the translation of this cell is stale. `accept` records the new hash after the
cell has been translated again. In code, only strings and comments may differ from the original.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.files import write_text
from course_utils.notebooks import METADATA, dump, lectures, load
from course_utils.publishing.addresses import with_badges
from course_utils.validation import CourseError

# The key in a cell's metadata, and the number of characters of a hash.
SOURCE, DIGITS = "translated_from", 12
# The set-up cell is generated. `extract` copies it as it is.
SETUP = "setup"
LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,8})*")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")

NEW, DONE, STALE = "not translated", "translated", "stale"


@dataclass(frozen=True)
class Cell:
    """A cell of a translation.

    Attributes:
        name: the id of the cell.
        hash: the hash of the original cell as it is now.
        state: NEW, DONE or STALE.
    """

    name: str
    hash: str
    state: str


def translation(folder: Path, language: str, lecture: str) -> tuple[Path, Path]:
    """Return the paths of a lecture and of its translation, which may not exist.

    Args:
        folder: the course folder.
        language: the code of the language, such as "de" or "pt-br".
        lecture: the number or the name of the lecture.

    Raises:
        CourseError: the code has another form, or there is no such lecture.
    """
    if not LANGUAGE.fullmatch(language):
        raise CourseError(f"{language!r} is not the code of a language, such as de or pt-br")
    (original,) = lectures(folder, lecture)
    return original, original.parent / language / original.name


def translations(folder: Path) -> list[tuple[Path, Path]]:
    """Return a pair of paths for each translated lecture: the lecture and its translation."""
    paths = sorted(folder.glob("lectures/*/[0-9][0-9]_*.ipynb"))
    return [(path.parents[1] / path.name, path) for path in paths]


def extract(original: Path, path: Path) -> list[Cell]:
    """Write or renew a translation, and return its cells.

    Missing cells are added in the language of the original, and cells that are not translated yet
    get the original's new text. Translated cells are not changed, even if they are stale.

    Raises:
        CourseError: a file can't be read or written, or the translation has a translated cell that
            the original no longer has.
    """
    notebook = load(original)
    old = {cell["id"]: cell for cell in load(path)["cells"]} if path.exists() else {}
    names = {cell["id"] for cell in notebook["cells"]}
    if gone := [name for name, cell in old.items() if name not in names and _hash_in(cell)]:
        raise CourseError(
            f"{path} has cells that the lecture no longer has: {', '.join(gone)}. Use what you "
            "need of their text elsewhere, and delete them"
        )
    cells = [_renewed(cell, old.get(cell["id"])) for cell in notebook["cells"]]
    path.parent.mkdir(exist_ok=True)
    write_text(path, dump(notebook | {"cells": cells}))
    return states(original, path)


def _renewed(cell: dict[str, Any], translated: dict[str, Any] | None) -> dict[str, Any]:
    """Return the translated cell, or a copy of the original if there is no translation."""
    if translated and _hash_in(translated) and cell["id"] != SETUP:
        return translated
    new = copy.deepcopy(cell)
    if new["cell_type"] == "markdown":
        # The translation is one folder deeper.
        new["source"] = LINK.sub(r"](../\1", new["source"])
    return new


def accept(original: Path, path: Path, names: Iterable[str] = ()) -> list[Cell]:
    """Record that cells of a translation are up to date, and return all cells of the translation.

    Args:
        original: the lecture.
        path: its translation.
        names: the ids of the cells; empty for all cells that were translated for the first time. A
            stale cell must be named, because its text says nothing about whether it is renewed.

    Raises:
        CourseError: a file can't be read or written, or there is no such cell.
    """
    notebook, sources = load(path), {cell["id"]: cell for cell in load(original)["cells"]}
    cells = {cell["id"]: cell for cell in notebook["cells"]}
    names = list(names)
    if unknown := [name for name in names if name not in cells or name not in sources]:
        raise CourseError(f"{path} and its lecture have no cell {unknown[0]!r} in common")
    first = [
        name
        for name, cell in cells.items()
        if name in sources and not _hash_in(cell) and cell != _renewed(sources[name], None)
    ]
    for name in names or first:
        own = cells[name]["metadata"].setdefault(METADATA, {})
        own[SOURCE] = hash_of(sources[name])
    write_text(path, dump(notebook))
    return states(original, path)


def states(original: Path, path: Path) -> list[Cell]:
    """Return the cells that the original and its translation have in common, with their states."""
    translated = {cell["id"]: cell for cell in load(path)["cells"]}
    return [
        Cell(cell["id"], hash_of(cell), _state(cell, translated[cell["id"]]))
        for cell in load(original)["cells"]
        if cell["id"] in translated
    ]


def _state(cell: Mapping[str, Any], translated: Mapping[str, Any]) -> str:
    if recorded := _hash_in(translated):
        return DONE if recorded == hash_of(cell) else STALE
    is_code = cell["cell_type"] == "code"
    same = is_code and cell["source"] == translated["source"]
    # Code without words for readers needs no translation.
    return DONE if cell["id"] == SETUP or (same and not _words(cell["source"])) else NEW


def _words(source: str) -> bool:
    """Return whether code contains strings or comments with several words."""
    strings = (n.value for n in ast.walk(_parsed(source)) if isinstance(n, ast.Constant))
    texts = [text for text in strings if isinstance(text, str)]
    texts += re.findall(r"#(.*)", source)
    return any(re.search(r"[a-z]{2,} +[a-z]{2,}", text) for text in texts)


def problems(original: Path, path: Path) -> list[str]:
    """Return the problems of a translation.

    Problems are cells that are missing, stale or superfluous, code that differs from the original
    in more than strings and comments, and links without a target.
    """
    sources = {cell["id"]: cell for cell in load(original)["cells"]}
    cells = {cell["id"]: cell for cell in load(path)["cells"]}
    found = [f"cell {name}: is missing" for name in sources if name not in cells]
    found += [f"cell {name}: the lecture has no such cell" for name in cells if name not in sources]
    pending = (cell for cell in states(original, path) if cell.state != DONE)
    found += [f"cell {cell.name}: {cell.state}" for cell in pending]
    for name in (name for name in sources if name in cells and name != SETUP):
        if sources[name]["cell_type"] != cells[name]["cell_type"]:
            found.append(f"cell {name}: has another type than in the lecture")
        elif cells[name]["cell_type"] == "code":
            found += _code_problems(name, sources[name]["source"], cells[name]["source"])
        else:
            targets = LINK.findall(cells[name]["source"])
            missing = [target for target in targets if not (path.parent / target).exists()]
            found += [f"cell {name}: {target} does not exist" for target in missing]
    return found


def _code_problems(name: str, source: str, translated: str) -> list[str]:
    try:
        same = _skeleton(source) == _skeleton(translated)
    except SyntaxError as error:
        return [f"cell {name}: line {error.lineno} is not valid Python"]
    return [] if same else [f"cell {name}: the code differs in more than strings and comments"]


def _parsed(source: str) -> ast.Module:
    # Lines such as %matplotlib are commands of IPython.
    return ast.parse(re.sub(r"^%", "#", source, flags=re.M))


def _skeleton(source: str) -> str:
    """Return the syntax tree of code as text, without its strings."""
    tree = _parsed(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            node.values = [part for part in node.values if isinstance(part, ast.FormattedValue)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


def hash_of(cell: Mapping[str, Any]) -> str:
    """Return a hash of a cell's type and text, in hexadecimal digits. Badges are not counted."""
    text = f"{cell['cell_type']}\n{with_badges(cell['source'], '')}"
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _hash_in(cell: Mapping[str, Any]) -> str:
    """Return the hash in the metadata of a translated cell, or "" if there is no hash."""
    return cell["metadata"].get(METADATA, {}).get(SOURCE, "")
