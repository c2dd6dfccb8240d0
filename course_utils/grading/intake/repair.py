"""Turn a student's file into a notebook that can be graded, and list what was repaired.

    load      bytes  ──►  a notebook, or `Ungradable` with the reason in one sentence
    repair    notebook + release  ──►  the release's cells with the student's answers, once each

A cell of the release is identified by nbgrader's metadata (`grade_id`), by the cell's id, by the
comment `# grade_id: NAME` at its beginning, or by its unchanged text. Nothing is guessed: an answer
without any of these marks stays among the student's own cells and is reported as a doubt, which a
person should check.

    handed in               result
    sum-all (copied)        sum-all          the last of several answers counts ...
    my scratch cell         sum-all, before  ... and the earlier ones run before it
    sum-all                 scratch cell     own cells stay behind the cell that they followed
    sum-all-form (edited)   sum-all-form     the release's text and metadata

The file is untrusted. The module needs only the standard library and the course's own modules, and
its running time grows linearly with the size of the file.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from course_utils import files, notebooks
from course_utils.grading.assignments import Cell, grading, is_answer
from course_utils.units import format_bytes
from course_utils.validation import CourseError

Notebook = dict[str, Any]

# Maximum size of a file in bytes (B), including outputs that a student forgot to clear.
MAX_FILE = 250_000_000
MAX_CELLS = 2_000
# Maximum length of the text of all cells together, in characters.
MAX_SOURCE = 10_000_000
# A grade_id comment among this number of first lines of a cell applies to the whole cell.
FIRST_LINES = 10

COMMENT = re.compile(r"^(?:#|<!--) *grade_id: *([\w-]+).*$", re.M)
# The names that a code cell defines. This is a regular expression because some students' code
# crashes the parser of the module ast.
DEFINES = re.compile(r"^(?:(?:async +)?def|class) +(\w+)|^(\w+)(?: *:[^=\n]+| *)=(?!=)", re.M)
CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
KINDS = ("code", "markdown", "raw")
PICTURES = ("image/png", "image/jpeg", "image/gif")
COUNTED = ("grade", "grade_id", "locked", "points", "schema_version", "solution", "task")
ONCE = {"cells", "metadata", "nbformat", "cell_type", "source", "id", "nbgrader", "grade_id"}
NO_NOTEBOOK = (
    "the file is no notebook (a zip archive, a PDF, a web page and a .py file are none): "
    "hand in the file that ends in .ipynb"
)


class Ungradable(CourseError):
    """Raised if a submission can't be graded; the message says why and what to do."""


class Loaded(dict[str, Any]):
    """A notebook as `load` returns it.

    Attributes:
        notes: what was repaired so that the file could be read, one line for each repair.
    """

    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Repaired:
    """A notebook that can be graded.

    Attributes:
        notebook: the notebook, in nbformat 4.5.
        notes: repairs that are certainly right, one line each.
        doubts: uncertain repairs and answers that a person should check, one line each.
    """

    notebook: Notebook
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


# --- reading --------------------------------------------------------------------------------------


def load(data: bytes) -> Loaded:
    """Read the notebook in a file's bytes; drop all outputs and the notebook's own metadata.

    Returns:
        The notebook in nbformat 4.5. Sources are strings whose lines end with "\\n". Each cell has
        an id, but several cells may still have the same id.

    Raises:
        Ungradable: the file is not a notebook, or it is too large to grade. No other exception is
            raised.
    """
    if len(data) > MAX_FILE:
        raise Ungradable(
            f"the file has {format_bytes(len(data), digits=0)}, more than "
            f"{format_bytes(MAX_FILE, digits=0)}: "
            "clear all outputs, save, and hand it in again"
        )
    if not data.strip(b"\0 \t\r\n\xef\xbb\xbf\xff\xfe"):
        raise Ungradable("the file is empty: save the notebook, then hand it in again")
    try:
        text, notes = _decoded(data)
        content = _parsed(text)
        cells, more = _cells(content)
    except RecursionError:
        raise Ungradable(
            "the file is nested too deep for a notebook: hand in the one you worked in"
        ) from None
    except MemoryError:
        raise Ungradable("the file needs more memory than there is: clear all outputs") from None
    loaded = Loaded(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)
    loaded.notes = (*notes, *more)
    return loaded


def _decoded(data: bytes) -> tuple[str, list[str]]:
    """Return the file's text, and a note if it isn't UTF-8 or some bytes can't be decoded."""
    encoding = json.detect_encoding(data[:4])
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode(encoding, "replace")
        return text, [f"{text.count('�')} characters of the file were broken: they are now �"]
    known = encoding in ("utf-8", "utf-8-sig")
    return text, [] if known else [f"the file was in {encoding.upper()}, not in UTF-8"]


def _parsed(text: str) -> Any:
    text = text.strip()
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=lambda digits: int(digits) if len(digits) < 16 else None,
        )
    except json.JSONDecodeError as fault:
        raise Ungradable(_what_is_wrong(text, fault)) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. A cell's outputs are dropped at once because they can be very large."""
    made = dict(pairs)
    if len(made) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        if twice := sorted(name for name in ONCE if counts[name] > 1):
            raise Ungradable(
                f"the file says {twice[0]!r} twice in one place, which no program for notebooks "
                "writes: open it in JupyterLab, save, and hand it in again"
            )
    if "cell_type" in made:
        made.pop("outputs", None)
    return made


def _what_is_wrong(text: str, fault: json.JSONDecodeError) -> str:
    if not text.startswith("{"):
        return NO_NOTEBOOK
    if not text.endswith("}"):
        return (
            f"the file ends in the middle, in line {text.count(chr(10)) + 1}: "
            "the upload was cut off, hand it in again"
        )
    return (
        f"the file is broken from line {fault.lineno} on (not valid JSON): "
        "open it in JupyterLab, save, and hand it in again"
    )


def _cells(content: Any) -> tuple[list[Cell], list[str]]:
    """Return the cells of a notebook in nbformat 4.5, and notes on what was repaired."""
    raw, notes = _raw_cells(content), []
    if len(raw) > MAX_CELLS:
        raise Ungradable(f"the notebook has {len(raw):,} cells, more than {MAX_CELLS:,}")
    cells = [_cell(cell, place) for place, cell in enumerate(raw, 1) if isinstance(cell, dict)]
    if len(cells) < len(raw):
        notes.append(f"{len(raw) - len(cells)} entries among the cells were none: dropped")
    if (size := sum(len(cell["source"]) for cell in cells)) > MAX_SOURCE:
        raise Ungradable(
            f"the cells hold {size / 1e6:,.0f} million characters, more than "
            f"{MAX_SOURCE / 1e6:,.0f}: take out data that was pasted into them"
        )
    return cells, notes


def _raw_cells(content: Any) -> list[Any]:
    """Return the list of cells in a notebook of format 4."""
    if not isinstance(content, dict):
        raise Ungradable("the file is valid JSON, but no notebook: hand in the one you worked in")
    if content.get("nbformat", 4) != 4:
        raise Ungradable(
            "the notebook isn't in format 4: open it in JupyterLab, save, and hand it in again"
        )
    if not isinstance(content.get("cells"), list):
        raise Ungradable("the file is valid JSON, but no notebook: it has no list of cells")
    return content["cells"]


def _cell(raw: dict[str, Any], place: int) -> Cell:
    """Return a cell in nbformat 4.5. Its metadata are kept if they are a JSON object."""
    kind, source = _kind_and_source(raw, place)
    name, metadata = raw.get("id"), raw.get("metadata")
    known = isinstance(name, str) and CELL_ID.fullmatch(name)
    cell: Cell = {
        "cell_type": kind,
        "id": name if known else f"given-{place}",
        "metadata": metadata if isinstance(metadata, dict) else {},
        "source": source,
    }
    if kind == "code":
        return cell | {"execution_count": None, "outputs": []}
    pictures = _pictures(raw.get("attachments"))
    return cell | {"attachments": pictures} if pictures else cell


def _kind_and_source(raw: dict[str, Any], place: int) -> tuple[str, str]:
    kind, source = raw.get("cell_type"), raw.get("source", "")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        raise Ungradable(
            f"cell {place} of the notebook holds no text where its source should be: "
            "open it in JupyterLab, save, and hand it in again"
        )
    return kind if kind in KINDS else "raw", _clean(source)


def _clean(text: str) -> str:
    """Return the text with "\\n" as line ends and without surrogates, which can't be encoded."""
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _pictures(attachments: Any) -> dict[str, dict[str, str]]:
    """Return the pictures of a text cell by name, in formats that can't contain scripts."""
    found: dict[str, dict[str, str]] = {}
    for name, bundle in attachments.items() if isinstance(attachments, dict) else ():
        for kind, data in bundle.items() if isinstance(bundle, dict) else ():
            if kind in PICTURES and isinstance(data, str) and data.isascii():
                found[_clean(name)] = {kind: data}
    return found


# --- what the release asks for --------------------------------------------------------------------


class _Release:
    """The released notebook.

    Attributes:
        cells: the cells by id, in the notebook's order.
        metadata: the notebook's metadata.
        marked: ids of the cells with nbgrader's metadata, which are answers or locked cells.
        answers: ids of the answer cells.
        locked: ids of the marked cells that are no answers, such as tests.
        texts: the ids of cells by their text without surrounding space.
        names: for each answer cell with code, the names that only this answer cell defines.
        needed: ids of the cells that a repaired notebook must contain: the marked cells, and the
            code cells before the first task (set-up and imports), which the answers need.
    """

    def __init__(self, release: Notebook):
        self.cells = {
            cell["id"]: {**copy.deepcopy(cell), "source": "".join(cell["source"])}
            for cell in release["cells"]
        }
        self.metadata = copy.deepcopy(release["metadata"])
        self.marked = [name for name, cell in self.cells.items() if grading(cell)]
        self.answers = [name for name in self.marked if is_answer(self.cells[name])]
        self.locked = [name for name in self.marked if name not in self.answers]
        self.texts = {_bare(cell["source"]): name for name, cell in self.cells.items()}
        counts = Counter(n for name in self.answers for n in _defined(self.source(name)))
        self.names = {
            name: {n for n in _defined(self.source(name)) if counts[n] == 1}
            for name in self.answers
            if self.cells[name]["cell_type"] == "code"
        }
        self.texts.pop("", None)
        first = next((place for place, name in enumerate(self.cells) if name in self.marked), 0)
        before = list(self.cells)[:first]
        self.needed = {*self.marked, *(name for name in before if self.kind(name) == "code")}

    def source(self, name: str) -> str:
        return self.cells[name]["source"]

    def kind(self, name: str) -> str:
        return self.cells[name]["cell_type"]

    def is_stub(self, name: str, source: str) -> bool:
        """Return whether an answer contains no student's work: it is empty or still the stub."""
        written = _letters(COMMENT.sub("", source))
        return written in ("", _letters(COMMENT.sub("", self.source(name))))

    def is_copy(self, name: str, source: str) -> bool:
        """Return whether a text contains at least half of the lines of a released cell."""
        lines = {line.strip() for line in self.source(name).split("\n")} - {""}
        return 2 * len(lines & {line.strip() for line in source.split("\n")}) >= len(lines)

    def fits(self, name: str, source: str) -> bool:
        """Return whether a text looks like the text of this released cell."""
        if name in self.names:
            return bool(self.names[name] & _defined(source))
        return self.is_copy(name, source)


def _bare(text: str) -> str:
    """Return the text without trailing spaces, and without empty lines at its start and end."""
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def _letters(text: str) -> str:
    """Return the characters of a text that a wrong encoding or another layout doesn't change."""
    return re.sub(r"[^!->@-~]", "", text)


@functools.lru_cache(MAX_CELLS)
def _defined(source: str) -> frozenset[str]:
    """Return the names that the unindented lines of a cell define."""
    return frozenset(function or name for function, name in DEFINES.findall(source))


# --- what was handed in ---------------------------------------------------------------------------


@dataclass(eq=False)
class _Piece:
    """A submitted cell, or a part of a submitted cell that contains several released cells.

    Attributes:
        kind: "code", "markdown" or "raw".
        source: the text.
        id: the id of the submitted cell.
        data: nbgrader's metadata of the submitted cell.
        hidden: the id of the released cell according to the metadata or the submitted cell's id,
            which a student doesn't see; "" if they name no released cell.
        comment: the id of the released cell according to the grade_id in the text; "" if the text
            has none.
        attachments: the pictures of a text cell, by name.
    """

    kind: str
    source: str
    id: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    hidden: str = ""
    comment: str = ""
    attachments: dict[str, Any] = field(default_factory=dict)


def _piece(cell: Cell, wanted: _Release) -> _Piece:
    data = cell["metadata"].get("nbgrader")
    data = data if isinstance(data, dict) else {}
    mark = data.get("grade_id")
    known = [m for m in (mark, cell["id"]) if isinstance(m, str) and m in wanted.cells]
    return _Piece(
        kind=cell["cell_type"],
        source=cell["source"],
        id=cell["id"],
        data=data,
        hidden=known[0] if known else "",
        attachments=cell.get("attachments", {}),
    )


def _pieces(cell: Cell, wanted: _Release) -> list[_Piece]:
    """Return the pieces of a cell: one piece for each released cell that it contains."""
    whole = _piece(cell, wanted)
    parts = _cut(whole.source, whole.hidden, wanted)
    if len(parts) == 1:
        whole.comment = parts[0][0]
        return [whole]
    comments = [comment for comment, _ in parts]
    owner = comments.index(whole.hidden) if whole.hidden in comments else 0
    pieces = [_Piece(whole.kind, text.strip("\n"), comment=comment) for comment, text in parts]
    pieces[owner] = replace(whole, source=pieces[owner].source, comment=comments[owner])
    return pieces


def _cut(source: str, hidden: str, wanted: _Release) -> list[tuple[str, str]]:
    """Return the parts of a cell's text, each with its grade_id, or "" if it has none."""
    parts, start, current = [], 0, ""
    for match in COMMENT.finditer(source):
        name = match[1]
        if name not in wanted.marked or name == current:
            continue
        above = source[start : match.start()]
        if current or not _belongs(above, name, hidden, wanted):
            parts.append((current, above))
            start = match.start()
        current = name
    parts.append((current, source[start:]))
    return [part for shown, text in parts for part in _without_tail(shown, text, wanted)]


def _without_tail(shown: str, text: str, wanted: _Release) -> list[tuple[str, str]]:
    """Return a part of a cell, split in two if more text follows a test in the part."""
    test = wanted.source(shown).strip("\n") if shown in wanted.locked else ""
    head, found, tail = text.partition(test) if test else (text, "", "")
    return [(shown, head + found), ("", tail)] if tail.strip() else [(shown, text)]


def _belongs(above: str, name: str, hidden: str, wanted: _Release) -> bool:
    """Return whether the text above the `grade_id` comment of a cell belongs to that cell."""
    if name in wanted.locked:
        return all(line.startswith("%") for line in above.split("\n") if line.strip())
    return name == hidden or above.count("\n") < FIRST_LINES


# --- mending --------------------------------------------------------------------------------------


def repair(notebook: Notebook, release: Notebook) -> Repaired:
    """Put the student's answers into the cells of the release, in the order of the release.

    Each released cell occurs once in the result. Tests get the release's text. Answers keep the
    student's text but get the metadata and the type of the released cell. The student's own cells
    stay behind the cell that they followed and lose their metadata. Outputs are dropped.

    Args:
        notebook: the notebook that `load` returns. An object that is no notebook raises Ungradable.
        release: the released notebook.

    Returns:
        The repaired notebook with notes and doubts.

    Raises:
        Ungradable: the notebook has too many cells or too much text, or it contains neither an
            answer nor a test of the release.
    """
    cells, notes = _cells(notebook)
    wanted = _Release(release)
    pieces = [_pieces(cell, wanted) for cell in cells]
    if sum(map(len, pieces)) > MAX_CELLS:
        raise Ungradable(f"the notebook holds more than {MAX_CELLS:,} cells, some within others")
    work = _Repair(wanted, [piece for parts in pieces for piece in parts])
    work.notes += [*getattr(notebook, "notes", ()), *notes]
    for parts in pieces:
        found = _listed(dict.fromkeys(piece.comment for piece in parts if piece.comment))
        work.note_if(len(parts) > 1, f"a cell that held {found} and more was taken apart")
    return work.done()


class _Repair:
    """The repair of one notebook.

    Attributes:
        placed: the pieces that become cells of the release, by the released cell's id.
        before: earlier answers, by the id of the released cell that must run after them.
        dropped: the pieces that are left out. All pieces that are neither placed, earlier answers
            nor dropped are the student's own cells.
        changed: the ids of tests whose text the student changed.
        copied: the ids of cells of which copies were dropped.
        notes: repairs that are certainly right, one line each.
        doubts: uncertain repairs and answers, one line each.
    """

    def __init__(self, wanted: _Release, pieces: list[_Piece]):
        self.wanted, self.pieces = wanted, pieces
        self.placed: dict[str, _Piece] = {}
        self.before: dict[str, list[_Piece]] = defaultdict(list)
        self.dropped: set[_Piece] = set()
        self.changed: list[str] = []
        self.copied: list[str] = []
        self.notes: list[str] = []
        self.doubts: list[str] = []

    def done(self) -> Repaired:
        self._place_certain()
        if not any(name in self.placed for name in self.wanted.marked):
            raise Ungradable(
                "the notebook holds none of this assignment's graded cells: "
                "is it the notebook of another assignment?"
            )
        missing = self._put_back()
        self._say_what_changed(missing)
        cells = self._assembled(missing)
        self._doubt_unanswered(cells, missing)
        notebook = {"cells": cells, "metadata": self.wanted.metadata}
        return Repaired(
            notebook | {"nbformat": 4, "nbformat_minor": 5}, tuple(self.notes), tuple(self.doubts)
        )

    def note_if(self, condition: Any, note: str) -> None:
        if condition:
            self.notes.append(note)

    def own(self) -> list[_Piece]:
        """Return the student's own pieces, which haven't been matched with a released cell."""
        taken = {*self.placed.values(), *self.dropped, *_all(self.before.values())}
        return [piece for piece in self.pieces if piece not in taken]

    def _place_certain(self) -> None:
        claims: dict[str, list[_Piece]] = defaultdict(list)
        for piece in self.pieces:
            if name := self._claim(piece):
                claims[name].append(piece)
        for name, found in claims.items():
            if name in self.wanted.locked:
                self._place_test(name, found)
            elif name in self.wanted.answers:
                self._place_answer(name, found)
            else:
                self.placed[name] = _original(name, found)

    def _claim(self, piece: _Piece) -> str:
        """Return the id of the released cell that a piece belongs to; "" if there is none.

        If metadata and comment name different cells, the piece's text decides.
        """
        hidden, comment = piece.hidden, piece.comment
        if not comment or hidden not in self.wanted.marked or hidden == comment:
            return comment or hidden or self.wanted.texts.get(_bare(piece.source), "")
        fitting = [n for n in (hidden, comment) if self.wanted.fits(n, piece.source)]
        if len(fitting) != 1:
            self.doubts.append(
                f"a cell is {hidden} by its metadata and {comment} by its first lines: "
                f"it was taken for {hidden}"
            )
            return hidden
        other = comment if fitting[0] == hidden else hidden
        self.notes.append(f"the cell {fitting[0]} was also marked as {other}")
        return fitting[0]

    def _place_test(self, name: str, found: list[_Piece]) -> None:
        """Place one copy of a test, and drop the other copies.

        Cells that have the test's id but another text stay the student's own cells.
        """
        source = self.wanted.source(name)
        copies = [p for p in found if p.comment == name or self.wanted.is_copy(name, p.source)]
        if not copies:
            return
        self.placed[name] = _original(name, copies)
        self.dropped |= set(copies) - {self.placed[name]}
        changed = [p for p in copies if _letters(p.source) != _letters(source)]
        self.changed += [name] if changed else []
        self.copied += [name] if copies[1:] else []
        lost = _all(_defined(piece.source) for piece in changed) - _defined(source)
        for answer, names in self.wanted.names.items():
            if lost & names:
                self.doubts.append(
                    f"the changed test {name} defined {_listed(sorted(lost & names))}, "
                    f"which belongs to {answer}: it isn't run"
                )

    def _place_answer(self, name: str, found: list[_Piece]) -> None:
        """Place the last of several answers, or the released stub if no answer was written."""
        filled = [piece for piece in found if not self.wanted.is_stub(name, piece.source)]
        filled = filled or [_original(name, found)]
        last = {_bare(piece.source): piece for piece in filled}
        different = [piece for piece in filled if last[_bare(piece.source)] is piece]
        if len(different) == 1:
            different = [_original(name, filled)]
        self.dropped |= set(found) - set(different)
        self.copied += [name] if len(found) > len(different) else []
        tries = self._tries(name, different)
        self.placed[name] = tries[-1]
        self.before[name] += tries[:-1]
        if tries[1:]:
            self.doubts.append(
                f"{name} was answered {len(tries)} times, each time differently: "
                "the last answer counts"
            )

    def _tries(self, name: str, pieces: list[_Piece]) -> list[_Piece]:
        """Return the pieces that are complete answers rather than parts of an answer.

        If a student splits a cell, all parts get the cell's metadata, but only one part has the
        comment. A copy of a cell has the comment again, or defines the same function again.
        """
        kind, names = self.wanted.kind(name), self.wanted.names.get(name, set())
        pieces = [piece for piece in pieces if piece.kind == kind] or pieces
        whole = [piece for piece in pieces if piece.comment == name]
        counts = Counter(n for piece in pieces for n in _defined(piece.source) & names)
        again = {n for n in counts if counts[n] > 1}
        redefining = [p for p in pieces if p in whole or _defined(p.source) & again]
        if len(redefining) > 1:
            return redefining
        return whole or [p for p in pieces if _defined(p.source) & names][:1] or pieces[:1]

    # --- what is missing, and what to say ---

    def _put_back(self) -> dict[str, str]:
        """Return the sources of the needed cells that are missing, by id.

        If another cell defines the function of a missing answer, the answer cell is put back with
        its first line only, so that the stub doesn't overwrite the student's function.
        """
        written = set()
        for name, piece in [*self.placed.items(), *(("", own) for own in self.own())]:
            if name not in self.wanted.locked and piece.kind == "code":
                written |= _defined(piece.source)
        back = {}
        for name in self.wanted.cells:
            if name in self.wanted.needed and name not in self.placed:
                elsewhere = self.wanted.names.get(name, set()) & written
                source = self.wanted.source(name)
                back[name] = source.partition("\n")[0] if elsewhere else source
        return back

    def _say_what_changed(self, missing: dict[str, str]) -> None:
        marked = [(n, self.placed[n]) for n in self.wanted.marked if n in self.placed]
        order = list(self.wanted.cells)
        given = [order.index(name) for name in sorted(self.placed, key=self._place_of)]
        kinds = [n for n, piece in marked if piece.kind != self.wanted.kind(n)]
        bare = sum(self._is_forged(piece, name) for name, piece in marked)
        forged = sum(bool(piece.data) for piece in self.own())
        tests = [name for name in self.wanted.locked if name in missing]
        answers = [name for name in self.wanted.answers if name in missing]
        rest = [name for name in missing if name not in self.wanted.marked]
        self.note_if(self.changed, f"tests were changed: {_listed(self.changed)}")
        self.note_if(self.copied, f"copies of cells were dropped: {_listed(self.copied)}")
        self.note_if(given != sorted(given), "cells were out of order: put back into their order")
        self.note_if(kinds, f"the type of a cell was changed: {_listed(kinds)}")
        self.note_if(bare, f"nbgrader's metadata was missing or changed: {bare} cells")
        self.note_if(forged, f"nbgrader's metadata was taken off the student's own cells: {forged}")
        self.note_if(tests, f"tests were missing: {_listed(tests)}")
        self.note_if(answers, f"answer cells were missing: {_listed(answers)}")
        self.note_if(rest, f"cells that the answers rely on were missing: {_listed(rest)}")

    def _place_of(self, name: str) -> int:
        return self.pieces.index(self.placed[name])

    def _is_forged(self, piece: _Piece, name: str) -> bool:
        asked = grading(self.wanted.cells[name])
        return any(piece.data.get(key) != asked.get(key) for key in COUNTED)

    # --- the result ---

    def _assembled(self, missing: dict[str, str]) -> list[Cell]:
        names = {piece: name for name, piece in self.placed.items()}
        following: dict[str, list[_Piece]] = defaultdict(list)
        anchor, own = "", set(self.own())
        for piece in self.pieces:
            anchor = names.get(piece, anchor)
            if piece in own:
                following[anchor].append(piece)
        used = set(self.wanted.cells)
        cells = [_own_cell(piece, used) for piece in following[""]]
        for name in self.wanted.cells:
            cells += [_own_cell(piece, used) for piece in self.before[name]]
            if name in self.placed:
                cells.append(self._released_cell(name, self.placed[name]))
            elif name in missing:
                cells.append(
                    self._released_cell(name, _Piece(self.wanted.kind(name), missing[name]))
                )
            cells += [_own_cell(piece, used) for piece in following[name]]
        return cells

    def _released_cell(self, name: str, piece: _Piece) -> Cell:
        kind = self.wanted.kind(name) if name in self.wanted.marked else piece.kind
        source = self.wanted.source(name) if name in self.wanted.locked else piece.source
        return _made(kind, name, self.wanted.cells[name]["metadata"], source, piece.attachments)

    def _doubt_unanswered(self, cells: list[Cell], missing: Iterable[str]) -> None:
        """Add a doubt for each missing or empty answer that another cell may contain."""
        own = [piece for piece in self.own() if piece.source.strip()]
        for name in self.wanted.answers:
            names, is_code = self.wanted.names.get(name, set()), self.wanted.kind(name) == "code"
            wrote = [
                place
                for place, cell in enumerate(cells)
                if cell["cell_type"] == "code" and cell["id"] != name
                if names & _defined(cell["source"])
            ]
            if name in missing:
                if wrote or any((piece.kind == "code") == is_code for piece in own):
                    self.doubts.append(
                        f"the answer {name} is missing: another cell of the notebook may hold it"
                    )
            elif wrote and self.wanted.is_stub(name, self.placed[name].source):
                self._doubt_place(name, wrote, [cell["id"] for cell in cells])

    def _doubt_place(self, name: str, wrote: list[int], ids: list[str]) -> None:
        """Add a doubt if an empty answer's function is defined where the tests can't use it."""
        place = ids.index(name)
        until = next((p for p, i in enumerate(ids) if p > place and i in self.wanted.locked), 0)
        if not any(place < p < until for p in wrote):
            names = _listed(sorted(self.wanted.names[name]))
            self.doubts.append(
                f"the answer {name} is as released, but another cell defines {names}"
            )


def _own_cell(piece: _Piece, used: set[str]) -> Cell:
    """Return a student's own cell, without metadata and with a unique id."""
    name = piece.id
    if not name or name in used:
        name = next(n for n in map("own-{}".format, range(1, len(used) + 2)) if n not in used)
    used.add(name)
    return _made(piece.kind, name, {}, piece.source, piece.attachments)


def _made(
    kind: str, name: str, metadata: dict[str, Any], source: str, attachments: dict[str, Any]
) -> Cell:
    cell: Cell = {"cell_type": kind, "id": name, "metadata": metadata, "source": source}
    if kind == "code":
        return cell | {"execution_count": None, "outputs": []}
    return cell | {"attachments": attachments} if attachments else cell


def _original(name: str, copies: list[_Piece]) -> _Piece:
    """Return the copy that has the released cell's id, or the first copy if no copy has this id.

    A pasted cell gets a new id, so the copy with the released id is the original.
    """
    return next((piece for piece in copies if piece.id == name), copies[0])


def _all(groups: Iterable[Iterable[Any]]) -> set[Any]:
    return {member for group in groups for member in group}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


# --- a file ---------------------------------------------------------------------------------------


def repair_file(
    path: Path | str,
    *,
    assignment: str | None = None,
    output: Path | str | None = None,
    in_place: bool = False,
    guess: bool = False,
    folder: Path | None = None,
) -> tuple[Path, Repaired]:
    """Repair a notebook, so that it has the cells of the released assignment.

    Args:
        path: the notebook.
        assignment: the assignment's number or name, such as "03" or "03_lora". By default the
            name is found in the file's name, such as "Copy of 03_lora.ipynb" or
            "student01_03_lora (1).ipynb".
        output: the file to write; by default NAME-repaired.ipynb in the notebook's folder.
        in_place: whether to overwrite the notebook and keep the old one as NAME.ipynb.bak.
        guess: whether to write the repaired notebook even if there are doubts.
        folder: the course's folder.

    Returns:
        The path of the file that was written, and the repaired notebook with notes and doubts.

    Raises:
        CourseError: the notebook or the release is missing, the output file exists already, or
            there are doubts.
        Ungradable: the file can't be made into a notebook that can be graded.
    """
    path, folder = Path(path), folder or notebooks.course_folder()
    if in_place and output:
        raise CourseError("choose one of --output and --in-place")
    target = path if in_place else Path(output or path.with_name(f"{path.stem}-repaired.ipynb"))
    if not in_place and target.exists():
        raise CourseError(f"{target} is there already: name another file with --output")
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise CourseError(f"{path} can't be read: {fault.strerror}") from None
    released = _release_for(path, folder, assignment)
    repaired = repair(load(data), notebooks.load(released))
    if repaired.doubts and not guess:
        raise CourseError(
            f"{path.name} isn't repaired, as not all is certain ({'; '.join(repaired.doubts)}): "
            "look at it, or accept that with --guess"
        )
    if in_place:
        shutil.copy2(path, _free(path.with_name(f"{path.name}.bak")))
    files.write_text(target, notebooks.dump(repaired.notebook))
    return target, repaired


def _release_for(path: Path, folder: Path, assignment: str | None) -> Path:
    """Return the release for a file, according to `assignment` or to the file's name."""
    releases = sorted((folder / "exercises").glob("[0-9][0-9]_*/[0-9][0-9]_*.ipynb"))
    if assignment is None:
        after = r"(?: ?\(\d+\)|-(?:Copy)?\d+|-repaired)*"
        fits = [r for r in releases if re.fullmatch(rf"(?:.*[_ +])?{r.stem}{after}", path.stem)]
    else:
        fits = [r for r in releases if assignment in (r.stem, r.stem[:2], r.stem[:2].lstrip("0"))]
    if fits:
        return fits[0]
    have = ", ".join(release.stem for release in releases) or "none at all"
    if assignment is None:
        raise CourseError(f"{path.name} names no assignment: say --assignment, one of: {have}")
    raise CourseError(f"there is no assignment {assignment}; choose one of: {have}")


def _free(path: Path) -> Path:
    """Return a path that doesn't exist: this path, or else this path with a number appended."""
    numbered: Iterator[Path] = (path.with_name(f"{path.name}{n}") for n in range(2, 10_000))
    return path if not path.exists() else next(p for p in numbered if not p.exists())
