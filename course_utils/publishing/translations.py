"""Keep track of translated lectures: which cells are translated, and which are out of date.

    lectures/00_setup.ipynb ── extract ──► lectures/de/00_setup.ipynb ── a person translates
                                                 check: what is missing or stale?

A translation has the same cells as its original, with the same ids. `extract` copies the cells,
and writes two hashes to the metadata of each copy: the hash of the original cell, and the hash of
the copy. If the text of a cell no longer has the hash of the copy, a person has changed the cell,
so `extract` never replaces it. If the original cell changes, it no longer has the recorded hash, so
the translation of this cell is stale. `accept` records the new hash after a person has renewed the
cell. In code, only strings and comments may differ from the original.
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

# The keys of the two hashes in a cell's metadata, and the number of characters of a hash.
SOURCE, COPY, DIGITS = "translated_from", "copied_as", 12
# The set-up cell is generated. `extract` copies it as it is.
SETUP = "setup"
# The first cell, which has the badges.
OPENING = "opening"
LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,8})*")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")

NEW, DONE, STALE = "not translated", "translated", "stale"
OLD = "has an old text of the lecture: run `course translate extract`"

# The cells of a notebook by their ids.
Cells = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """A cell of a translation.

    Attributes:
        name: the id of the cell.
        hash: the hash of the original cell as it is now.
        state: NEW, DONE, STALE or OLD.
    """

    name: str
    hash: str
    state: str


def translation(folder: Path, language: str, lecture: str) -> tuple[Path, Path]:
    """Return the paths of a lecture and of its translation, even if there is no translation yet.

    Args:
        folder: the course folder.
        language: the code of the language, such as "de" or "pt-br".
        lecture: the number or the name of the lecture.

    Raises:
        CourseError: `language` is not the code of a language, or there is no such lecture.
    """
    if not LANGUAGE.fullmatch(language):
        raise CourseError(f"{language!r} is not the code of a language, such as de or pt-br")
    (original,) = lectures(folder, lecture)
    return original, original.parent / language / original.name


def translations(
    folder: Path, language: str | None = None, lecture: str | None = None
) -> list[tuple[Path, Path]]:
    """Return a pair of paths for each translated lecture: the lecture and its translation.

    Args:
        folder: the course folder.
        language: return only translations into this language.
        lecture: return only translations of the lecture with this number or name.

    Raises:
        CourseError: there is no such lecture, or it has no such translation.
    """
    paths = sorted(folder.glob("lectures/*/[0-9][0-9]_*.ipynb"))
    # Jupyter writes to folders such as .ipynb_checkpoints.
    paths = [path for path in paths if LANGUAGE.fullmatch(path.parent.name)]
    if language:
        paths = [path for path in paths if path.parent.name == language]
    if lecture:
        (original,) = lectures(folder, lecture)
        paths = [path for path in paths if path.name == original.name]
    if not paths and (language or lecture):
        wanted = " ".join(filter(None, [language, lecture]))
        raise CourseError(f"there is no translation {wanted}: run `course translate extract` first")
    return [(path.parents[1] / path.name, path) for path in paths]


def extract(original: Path, path: Path) -> list[Cell]:
    """Write or renew a translation, and return its cells.

    Missing cells are added in the language of the original, and cells that are not translated yet
    get the original's new text. Cells whose text a person has changed stay as they are, even if
    they are stale.

    Raises:
        CourseError: a file can't be read or written, or a person has written a cell that the
            original doesn't have.
    """
    notebook = load(original)
    sources, last = _cells(notebook, original), load(path) if path.exists() else {"cells": []}
    old = _cells(last, path)
    if gone := [name for name in old if name not in sources and _by_a_person(old[name])]:
        raise CourseError(
            f"{path} has cells that the lecture doesn't have: {', '.join(gone)}. Move what you "
            "need of their text to other cells, and delete them"
        )
    cells = [_renewed(cell, old.get(name)) for name, cell in sources.items()]
    metadata = notebook["metadata"] | last.get("metadata", {})
    renewed = notebook | {"cells": cells, "metadata": metadata}
    write_text(path, dump(renewed))
    return _states(sources, _cells(renewed, path))


def _cells(notebook: Mapping[str, Any], path: Path) -> Cells:
    """Return the cells of a notebook by their ids.

    Raises:
        CourseError: a cell has no id, type or metadata, or two cells have the same id.
    """
    cells: Cells = {}
    for number, cell in enumerate(notebook["cells"], 1):
        kinds = {"id": str, "cell_type": str, "metadata": dict}
        if not all(isinstance(cell.get(name), kind) for name, kind in kinds.items()):
            raise CourseError(
                f"{path}: cell {number} has no id, type or metadata, so it can't be compared with "
                "the lecture: copy them from the cell of the lecture"
            )
        if cells.setdefault(cell["id"], cell) is not cell:
            raise CourseError(f"{path} has two cells with the id {cell['id']}: rename or join them")
    return cells


def _by_a_person(cell: Mapping[str, Any]) -> bool:
    """Return whether a person has written or accepted a cell of a translation."""
    return _recorded(cell).get(COPY) != hash_of(cell) and cell["id"] != SETUP


def _renewed(cell: dict[str, Any], translated: dict[str, Any] | None) -> dict[str, Any]:
    """Return the translated cell, or a copy of the original if there is no translation."""
    new = _copy(cell)
    if translated and _by_a_person(translated) and not _is_unmarked_copy(translated, new):
        return translated
    if cell["id"] != SETUP:
        hashes = {SOURCE: hash_of(cell), COPY: hash_of(new)}
        new["metadata"][METADATA] = new["metadata"].get(METADATA, {}) | hashes
    return new


def _is_unmarked_copy(translated: Mapping[str, Any], copied: Mapping[str, Any]) -> bool:
    """Return whether a cell without recorded hashes has the text of the original."""
    return not _recorded(translated).get(SOURCE) and hash_of(translated) == hash_of(copied)


def _copy(cell: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a cell, whose links work from the folder of the translation."""
    new = copy.deepcopy(cell)
    if new["cell_type"] == "markdown":
        # The translation is one folder deeper.
        new["source"] = LINK.sub(r"](../\1", new["source"])
    return new


def accept(original: Path, path: Path, names: Iterable[str]) -> list[Cell]:
    """Record that cells of a translation are up to date, and return all cells of the translation.

    Args:
        original: the lecture.
        path: its translation.
        names: the ids of the cells. Nobody can see from a text whether it is up to date, so each
            cell must be named.

    Raises:
        CourseError: a file can't be read or written, there is no such cell, or a cell still has an
            old text of the lecture.
    """
    notebook, sources = load(path), _cells(load(original), original)
    cells, names = _cells(notebook, path), list(names)
    if unknown := [name for name in names if name not in cells or name not in sources]:
        raise CourseError(f"{path} and its lecture have no cell {unknown[0]!r} in common")
    for name in names:
        if _state(sources[name], cells[name]) == OLD:
            raise CourseError(f"cell {name} has an old text of the lecture: run `extract` first")
        recorded = _recorded(cells[name]) | {SOURCE: hash_of(sources[name])}
        recorded.pop(COPY, None)
        cells[name]["metadata"][METADATA] = recorded
    write_text(path, dump(notebook))
    return _states(sources, cells)


def _states(sources: Cells, translated: Cells) -> list[Cell]:
    """Return the cells that the original and its translation have in common, with their states."""
    return [
        Cell(name, hash_of(cell), _state(cell, translated[name]))
        for name, cell in sources.items()
        if name in translated
    ]


def _state(cell: Mapping[str, Any], translated: Mapping[str, Any]) -> str:
    if cell["id"] == SETUP:
        return DONE
    recorded = _recorded(translated).get(SOURCE)
    # Code without words for readers needs no translation.
    needless = cell["cell_type"] == "code" and not _words(cell["source"])
    is_current = recorded == hash_of(cell)
    if recorded and _by_a_person(translated):
        return DONE if is_current else STALE
    if recorded and not is_current:
        return OLD
    return DONE if recorded and needless else NEW


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
    sources, cells = _cells(load(original), original), _cells(load(path), path)
    found = [f"cell {name}: is missing" for name in sources if name not in cells]
    found += [f"cell {name}: the lecture has no such cell" for name in cells if name not in sources]
    if [name for name in cells if name in sources] != [name for name in sources if name in cells]:
        found.append("the cells are in another order: run `course translate extract`")
    pending = (cell for cell in _states(sources, cells) if cell.state != DONE)
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
    # Lines such as %matplotlib and !pip are commands of IPython.
    return ast.parse(re.sub(r"^[%!]", "#", source, flags=re.M))


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
    """Return a hash of a cell's type and text, in hexadecimal digits.

    The badges in a notebook's first cell are not counted.
    """
    source = with_badges(cell["source"], "") if cell["id"] == OPENING else cell["source"]
    text = f"{cell['cell_type']}\n{source}"
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _recorded(cell: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes in the metadata of a translated cell; empty if there are none."""
    recorded = cell["metadata"].get(METADATA)
    return recorded if isinstance(recorded, dict) else {}
