"""Turn a student's file into a notebook that can be graded, and list what was repaired.

    load      bytes  ──►  a notebook, or `Ungradable` with the reason in one sentence
    repair    notebook + release  ──►  the release's cells, each once, with the student's answers

A cell of the release is recognized by nbgrader's metadata (`grade_id`), by the cell's id, by the
comment `# grade_id: NAME` at its beginning, or by its unchanged text. Nothing is guessed: an answer
without any of these marks stays among the student's own cells, and `repair` reports a doubt, which
a person should check.

    handed in               result
    sum-all, first answer   sum-all, first answer    earlier answers run before the last one
    my own cell             sum-all, last answer     the last of several answers counts
    sum-all, last answer    my own cell              own cells follow the cell that they followed
    sum-all-form, edited    sum-all-form             tests get the release's text and metadata

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
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from course_utils.machine import files, notebooks
from course_utils.machine.units import format_bytes
from course_utils.machine.validation import CourseError
from workshop.grading.assignments import Cell, grading, is_answer
from workshop.grading.spec import MAX_NOTEBOOK, Notebook

MAX_CELLS = 2_000
# Maximum length of the text of all cells together, in characters.
MAX_SOURCE = 10_000_000
# If a grade_id comment is among the first lines of a cell, it applies to the whole cell. This is
# the number of these first lines.
FIRST_LINES = 10

COMMENT = re.compile(r"^(?:# @title .*\n)?(?:#|<!--) *grade_id: *([\w-]+).*$", re.M)
# The names that a code cell defines. This is a regular expression because some students' code
# crashes the parser of the module ast.
DEFINES = re.compile(r"^(?:(?:async +)?def|class) +(\w+)|^(\w+)(?: *:[^=\n]+| *)=(?!=)", re.M)
CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
CELL_TYPES = ("code", "markdown", "raw")
PYTHON = re.compile(r"\d{1,3}(\.\d{1,3}){1,2}")
PICTURE_TYPES = ("image/png", "image/jpeg", "image/gif")
# The fields of nbgrader's metadata that decide how a cell is graded.
GRADING_FIELDS = ("grade", "grade_id", "locked", "points", "schema_version", "solution", "task")
# Keys that a JSON object of a notebook may contain only once.
UNIQUE_KEYS = {"cells", "metadata", "nbformat", "cell_type", "source", "id", "nbgrader", "grade_id"}
NOT_A_NOTEBOOK = (
    "the file is not a notebook (zip archives, PDFs, web pages and .py files can't be graded): "
    "hand in the file that ends in .ipynb"
)
SAVE_AGAIN = "open it in JupyterLab, save it, and hand it in again"
WORKED_IN = "hand in the notebook that you worked in"


class Ungradable(CourseError):
    """Raised if a submission can't be graded; the message says why and what to do."""


class Loaded(dict[str, Any]):
    """A notebook as `load` returns it, with the fields of `Repaired` that reading decides."""

    notes: tuple[str, ...] = ()
    python: str = ""


@dataclass(frozen=True)
class Repaired:
    """A notebook that can be graded.

    Attributes:
        notebook: the notebook, in nbformat 4.5.
        notes: repairs that are certainly right, one line each.
        doubts: uncertain repairs, and answers that a person should check, one line each.
        unanswered: the ids of the answers that contain no student's work.
        python: the version of Python with which the notebook was saved; "" if it is unknown.
    """

    notebook: Notebook
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    unanswered: tuple[str, ...] = ()
    python: str = ""


# --- reading --------------------------------------------------------------------------------------


def load(data: bytes) -> Loaded:
    r"""Read the notebook in a file's bytes; drop all outputs and the notebook's own metadata.

    Only the version of Python is kept of the metadata.

    Returns:
        The notebook in nbformat 4.5. Sources are strings whose lines end with "\n". Each cell has
        an id, but several cells may still have the same id.

    Raises:
        Ungradable: the file is not a notebook, or it is too large to grade. No other exception is
            raised.
    """
    if len(data) > MAX_NOTEBOOK:
        raise Ungradable(
            f"the file has {format_bytes(len(data), digits=0)}, but at most "
            f"{format_bytes(MAX_NOTEBOOK, digits=0)} are allowed: "
            "clear all outputs, save the notebook, and hand it in again"
        )
    if not data.strip(b"\0 \t\r\n\xef\xbb\xbf\xff\xfe"):
        raise Ungradable("the file is empty: save the notebook, and hand it in again")
    try:
        text, notes = _decoded(data)
        content = _parsed(text)
        cells, more = _cells(content)
    except RecursionError:
        raise Ungradable(
            f"the JSON in the file is nested too deeply for a notebook: {WORKED_IN}"
        ) from None
    except MemoryError:
        raise Ungradable(
            "there is not enough memory to read the file: "
            "clear all outputs, save the notebook, and hand it in again"
        ) from None
    loaded = Loaded(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)
    loaded.notes, loaded.python = (*notes, *more), _python(content)
    return loaded


def _decoded(data: bytes) -> tuple[str, list[str]]:
    """Return the file's text, and a note if it isn't UTF-8 or some bytes can't be decoded."""
    encoding = json.detect_encoding(data[:4])
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode(encoding, "replace")
        return text, [f"replaced undecodable characters with � (number: {text.count('�')})"]
    is_utf8 = encoding in ("utf-8", "utf-8-sig")
    return text, [] if is_utf8 else [f"converted the file from {encoding.upper()} to UTF-8"]


def _parsed(text: str) -> Any:
    text = text.strip()
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=lambda digits: int(digits) if len(digits) < 16 else None,
        )
    except json.JSONDecodeError as error:
        raise Ungradable(_json_problem(text, error)) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. A cell's outputs, which can be very large, are dropped immediately."""
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        if repeated := sorted(key for key in UNIQUE_KEYS if counts[key] > 1):
            raise Ungradable(
                f"the file contains the key {repeated[0]!r} twice in the same JSON object: "
                f"{SAVE_AGAIN}"
            )
    if "cell_type" in content:
        content.pop("outputs", None)
    return content


def _json_problem(text: str, error: json.JSONDecodeError) -> str:
    """Return why a text can't be parsed as a notebook, and what the student should do."""
    if not text.startswith("{"):
        return NOT_A_NOTEBOOK
    if not text.endswith("}"):
        return (
            f"the file is incomplete and ends in line {text.count(chr(10)) + 1}: "
            "the upload was cut off, so hand in the notebook again"
        )
    return f"the file is not valid JSON from line {error.lineno} on: {WORKED_IN}"


def _cells(content: Any) -> tuple[list[Cell], list[str]]:
    """Return the cells of a notebook in nbformat 4.5, and notes on what was repaired."""
    raw, notes = _raw_cells(content), []
    if len(raw) > MAX_CELLS:
        raise Ungradable(
            f"the notebook has {len(raw):,} cells, but at most {MAX_CELLS:,} are allowed"
        )
    cells = [_cell(cell, number) for number, cell in enumerate(raw, 1) if isinstance(cell, dict)]
    if len(cells) < len(raw):
        count = len(raw) - len(cells)
        notes.append(f"dropped entries of the cell list that are not cells (number: {count})")
    if (size := sum(len(cell["source"]) for cell in cells)) > MAX_SOURCE:
        raise Ungradable(
            f"the cells contain {size / 1e6:,.1f} million characters, but at most "
            f"{MAX_SOURCE / 1e6:,.0f} million are allowed: remove data that was pasted into cells"
        )
    return cells, notes


def _python(content: Any) -> str:
    """Return the version of Python in a notebook's metadata; "" if there is none."""
    match content:
        case {"metadata": {"language_info": {"name": "python", "version": str(version)}}}:
            return match[0] if (match := PYTHON.match(version)) else ""
    return ""


def _raw_cells(content: Any) -> list[Any]:
    if not isinstance(content, dict):
        raise Ungradable(f"the file is valid JSON, but not a notebook: {WORKED_IN}")
    if content.get("nbformat", 4) != 4:
        raise Ungradable(f"the notebook isn't in format 4: {SAVE_AGAIN}")
    if not isinstance(content.get("cells"), list):
        raise Ungradable(
            f"the file contains no list of cells, so it is not a notebook: {WORKED_IN}"
        )
    return content["cells"]


def _cell(raw: dict[str, Any], number: int) -> Cell:
    """Return a cell in nbformat 4.5. The cell's metadata are kept if they are a JSON object."""
    kind, source = _kind_and_source(raw, number)
    name, metadata = raw.get("id"), raw.get("metadata")
    is_valid = isinstance(name, str) and CELL_ID.fullmatch(name)
    cell: Cell = {
        "cell_type": kind,
        "id": name if is_valid else f"given-{number}",
        "metadata": metadata if isinstance(metadata, dict) else {},
        "source": source,
    }
    if kind == "code":
        return cell | {"execution_count": None, "outputs": []}
    pictures = _pictures(raw.get("attachments"))
    return cell | {"attachments": pictures} if pictures else cell


def _kind_and_source(raw: dict[str, Any], number: int) -> tuple[str, str]:
    kind, source = raw.get("cell_type"), raw.get("source", "")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        raise Ungradable(f"the source of cell {number} of the notebook is not a text: {SAVE_AGAIN}")
    return kind if kind in CELL_TYPES else "raw", _clean(source)


def _clean(text: str) -> str:
    r"""Return the text with "\n" as line ends and without surrogates, which can't be encoded."""
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _pictures(attachments: Any) -> dict[str, dict[str, str]]:
    """Return the pictures of a text cell by name, in formats that can't contain scripts."""
    pictures: dict[str, dict[str, str]] = {}
    for name, bundle in attachments.items() if isinstance(attachments, dict) else ():
        for kind, data in bundle.items() if isinstance(bundle, dict) else ():
            if kind in PICTURE_TYPES and isinstance(data, str) and data.isascii():
                pictures[_clean(name)] = {kind: data}
    return pictures


# --- the released notebook ------------------------------------------------------------------------


class _Release:
    """The released notebook.

    Attributes:
        marked: ids of the cells with nbgrader's metadata, which are answers or locked cells.
        locked: ids of the marked cells that are no answers, such as tests.
        ids_by_text: the ids of the cells by their text without surrounding space.
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
        self.ids_by_text = {_trimmed(cell["source"]): name for name, cell in self.cells.items()}
        counts = Counter(n for name in self.answers for n in _defined(self.source(name)))
        self.names = {
            name: {n for n in _defined(self.source(name)) if counts[n] == 1}
            for name in self.answers
            if self.cells[name]["cell_type"] == "code"
        }
        self.ids_by_text.pop("", None)
        first = next((n for n, name in enumerate(self.cells) if name in self.marked), 0)
        before = list(self.cells)[:first]
        self.needed = {*self.marked, *(name for name in before if self.kind(name) == "code")}

    def source(self, name: str) -> str:
        return self.cells[name]["source"]

    def kind(self, name: str) -> str:
        return self.cells[name]["cell_type"]

    def is_stub(self, name: str, source: str) -> bool:
        """Return whether an answer contains no student's work: it is empty or still the stub."""
        text = _ascii_only(COMMENT.sub("", source))
        return text in ("", _ascii_only(COMMENT.sub("", self.source(name))))

    def is_copy(self, name: str, source: str) -> bool:
        """Return whether a text contains at least half of the lines of a released cell."""
        lines = {line.strip() for line in self.source(name).split("\n")} - {""}
        return 2 * len(lines & {line.strip() for line in source.split("\n")}) >= len(lines)

    def fits(self, name: str, source: str) -> bool:
        """Return whether a text looks like the text of this released cell."""
        if name in self.names:
            return bool(self.names[name] & _defined(source))
        return self.is_copy(name, source)


def _trimmed(text: str) -> str:
    """Return the text without trailing spaces, and without empty lines at its start and end."""
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def _ascii_only(text: str) -> str:
    """Return a text without spaces and without characters that a wrong encoding would change."""
    return re.sub(r"[^!->@-~]", "", text)


@functools.lru_cache(MAX_CELLS)
def _defined(source: str) -> frozenset[str]:
    """Return the names that the unindented lines of a cell define."""
    return frozenset(function or name for function, name in DEFINES.findall(source))


# --- the submitted cells --------------------------------------------------------------------------


@dataclass(eq=False)
class _Piece:
    """A submitted cell, or a part of a submitted cell that contains several released cells.

    Attributes:
        id: the id of the submitted cell.
        metadata_id: the id of the released cell according to the metadata or the submitted cell's
            id; "" if neither names a released cell.
        comment_id: the id of the released cell according to the grade_id comment in the text; ""
            if the text has no such comment.
    """

    kind: str
    source: str
    id: str = ""
    nbgrader: dict[str, Any] = field(default_factory=dict)
    metadata_id: str = ""
    comment_id: str = ""
    attachments: dict[str, Any] = field(default_factory=dict)


def _piece(cell: Cell, release: _Release) -> _Piece:
    data = cell["metadata"].get("nbgrader")
    data = data if isinstance(data, dict) else {}
    names = (data.get("grade_id"), cell["id"])
    known = [name for name in names if isinstance(name, str) and name in release.cells]
    return _Piece(
        kind=cell["cell_type"],
        source=cell["source"],
        id=cell["id"],
        nbgrader=data,
        metadata_id=known[0] if known else "",
        attachments=cell.get("attachments", {}),
    )


def _pieces(cell: Cell, release: _Release) -> list[_Piece]:
    """Return the pieces of a cell: one piece for each released cell that it contains."""
    whole = _piece(cell, release)
    parts = _split(whole.source, whole.metadata_id, release)
    comments = [comment for comment, _ in parts]
    if len(parts) == 1:
        whole.comment_id = comments[0]
        return [whole]
    owner = comments.index(whole.metadata_id) if whole.metadata_id in comments else 0
    pieces = [_Piece(whole.kind, text.strip("\n"), comment_id=comment) for comment, text in parts]
    pieces[owner] = replace(whole, source=pieces[owner].source, comment_id=comments[owner])
    return pieces


def _split(source: str, metadata_id: str, release: _Release) -> list[tuple[str, str]]:
    """Return the parts of a cell's text, each with its grade_id, or "" if it has none."""
    parts, start, current = [], 0, ""
    for match in COMMENT.finditer(source):
        name = match[1]
        if name not in release.marked or name == current:
            continue
        above = source[start : match.start()]
        if current or not _is_beginning(above, name, metadata_id, release):
            parts.append((current, above))
            start = match.start()
        current = name
    parts.append((current, source[start:]))
    return [piece for name, text in parts for piece in _split_after_test(name, text, release)]


def _split_after_test(name: str, text: str, release: _Release) -> list[tuple[str, str]]:
    """Return a part of a cell, split in two if more text follows a test in the part."""
    test = release.source(name).strip("\n") if name in release.locked else ""
    head, separator, tail = text.partition(test) if test else (text, "", "")
    return [(name, head + separator), ("", tail)] if tail.strip() else [(name, text)]


def _is_beginning(above: str, name: str, metadata_id: str, release: _Release) -> bool:
    """Return whether the text above a cell's grade_id comment is the beginning of this cell."""
    if name in release.locked:
        return all(line.startswith("%") for line in above.split("\n") if line.strip())
    return name == metadata_id or above.count("\n") < FIRST_LINES


# --- repairing ------------------------------------------------------------------------------------


def repair(notebook: Notebook, release: Notebook) -> Repaired:
    """Put the student's answers into the cells of the release, in the order of the release.

    Each released cell occurs once in the result. Tests get the release's text. Answers keep the
    student's text, but get the metadata and the type of the released cell. Each of the student's
    own cells follows the same cell as before and loses its metadata. Outputs are dropped.

    Raises:
        Ungradable: the argument is not a notebook, has too many cells or too much text, or
            contains neither an answer nor a test of the release.
    """
    cells, notes = _cells(notebook)
    released = _Release(release)
    pieces = [_pieces(cell, released) for cell in cells]
    if sum(map(len, pieces)) > MAX_CELLS:
        raise Ungradable(
            "the notebook contains too many cells, including cells merged into others: "
            f"at most {MAX_CELLS:,} are allowed"
        )
    work = _Repair(released, [piece for parts in pieces for piece in parts])
    work.notes += [*getattr(notebook, "notes", ()), *notes]
    for parts in pieces:
        names = _joined(dict.fromkeys(piece.comment_id for piece in parts if piece.comment_id))
        work.note_if(len(parts) > 1, f"split a merged cell, which contained: {names}")
    return replace(work.result(), python=getattr(notebook, "python", ""))


class _Repair:
    """The repair of one notebook.

    Attributes:
        placed: the pieces that become cells of the release, by the released cell's id.
        before: earlier answers, by the id of the released cell that must run after them.
        dropped: the pieces that are left out. All pieces that are neither placed, earlier answers
            nor dropped are the student's own cells.
    """

    def __init__(self, release: _Release, pieces: list[_Piece]):
        self.release, self.pieces = release, pieces
        self.placed: dict[str, _Piece] = {}
        self.before: dict[str, list[_Piece]] = defaultdict(list)
        self.dropped: set[_Piece] = set()
        self.changed: list[str] = []
        self.copied: list[str] = []
        self.notes: list[str] = []
        self.doubts: list[str] = []
        self.unanswered: list[str] = []

    def result(self) -> Repaired:
        self._place_pieces()
        self._exchange_answers()
        if not any(name in self.placed for name in self.release.marked):
            raise Ungradable(
                "the notebook contains none of this assignment's graded cells: "
                "hand in the notebook of this assignment"
            )
        missing = self._missing_sources()
        self._note_changes(missing)
        cells = self._assemble(missing)
        self._doubt_unanswered(cells, missing)
        notebook = {"cells": cells, "metadata": self.release.metadata}
        return Repaired(
            notebook | {"nbformat": 4, "nbformat_minor": 5},
            tuple(self.notes),
            tuple(self.doubts),
            tuple(self.unanswered),
        )

    def note_if(self, condition: object, note: str) -> None:
        if condition:
            self.notes.append(note)

    def own(self) -> list[_Piece]:
        """Return the student's own pieces, which haven't been matched with a released cell."""
        matched = {*self.placed.values(), *self.dropped, *_union(self.before.values())}
        return [piece for piece in self.pieces if piece not in matched]

    def _place_pieces(self) -> None:
        """Place the pieces that can be matched with a released cell."""
        candidates: dict[str, list[_Piece]] = defaultdict(list)
        for piece in self.pieces:
            if name := self._released_id(piece):
                candidates[name].append(piece)
        for name, pieces in candidates.items():
            if name in self.release.locked:
                self._place_test(name, pieces)
            elif name in self.release.answers:
                self._place_answer(name, pieces)
            else:
                self.placed[name] = _original(name, pieces)

    def _released_id(self, piece: _Piece) -> str:
        """Return the id of the released cell that a piece belongs to; "" if there is none.

        If metadata and comment name different cells, the piece's text decides.
        """
        by_metadata, by_comment = piece.metadata_id, piece.comment_id
        if not by_comment or by_metadata not in self.release.marked or by_metadata == by_comment:
            by_text = self.release.ids_by_text.get(_trimmed(piece.source), "")
            return by_comment or by_metadata or by_text
        fitting = [n for n in (by_metadata, by_comment) if self.release.fits(n, piece.source)]
        if len(fitting) != 1:
            self.doubts.append(
                f"the metadata of a cell names {by_metadata}, but its grade_id comment names "
                f"{by_comment}: the cell was used as {by_metadata}"
            )
            return by_metadata
        other = by_comment if fitting[0] == by_metadata else by_metadata
        self.notes.append(
            f"a cell was marked as {fitting[0]} and {other}: only {fitting[0]} fits its text"
        )
        return fitting[0]

    def _place_test(self, name: str, pieces: list[_Piece]) -> None:
        """Place one copy of a test, and drop the other copies.

        Cells that have the test's id but another text stay the student's own cells.
        """
        source = self.release.source(name)
        copies = [p for p in pieces if p.comment_id == name or self.release.is_copy(name, p.source)]
        if not copies:
            return
        self.placed[name] = _original(name, copies)
        self.dropped |= set(copies) - {self.placed[name]}
        changed = [p for p in copies if _ascii_only(p.source) != _ascii_only(source)]
        self.changed += [name] if changed else []
        self.copied += [name] if copies[1:] else []
        lost = _union(_defined(piece.source) for piece in changed) - _defined(source)
        for answer, names in self.release.names.items():
            if lost & names:
                self.doubts.append(
                    f"the changed test {name} defined {_joined(sorted(lost & names))}, "
                    f"which belongs to the answer {answer}: this definition is not run"
                )

    def _place_answer(self, name: str, pieces: list[_Piece]) -> None:
        """Place the last of several answers, or the released stub if no answer was written."""
        filled = [piece for piece in pieces if not self.release.is_stub(name, piece.source)]
        filled = filled or [_original(name, pieces)]
        last = {_trimmed(piece.source): piece for piece in filled}
        different = [piece for piece in filled if last[_trimmed(piece.source)] is piece]
        if len(different) == 1:
            different = [_original(name, filled)]
        self.dropped |= set(pieces) - set(different)
        self.copied += [name] if len(pieces) > len(different) else []
        answers = self._complete_answers(name, different)
        self.placed[name] = answers[-1]
        self.before[name] += answers[:-1]
        if answers[1:]:
            self.doubts.append(f"{name} has {len(answers)} different answers: the last one counts")

    def _complete_answers(self, name: str, pieces: list[_Piece]) -> list[_Piece]:
        """Return the pieces that are complete answers rather than parts of an answer.

        If a student splits a cell, all parts get the cell's metadata, but only one part has the
        comment. A copy of a cell has the comment again, or defines the same function again.
        """
        kind, names = self.release.kind(name), self.release.names.get(name, set())
        pieces = [piece for piece in pieces if piece.kind == kind] or pieces
        commented = [piece for piece in pieces if piece.comment_id == name]
        counts = Counter(n for piece in pieces for n in _defined(piece.source) & names)
        repeated = {n for n in counts if counts[n] > 1}
        complete = [p for p in pieces if p in commented or _defined(p.source) & repeated]
        if len(complete) > 1:
            return complete
        return commented or [p for p in pieces if _defined(p.source) & names][:1] or pieces[:1]

    def _exchange_answers(self) -> None:
        """Move answers that were written into each other's cells into their own cells.

        An answer is moved only if no other cell defines its names, and if its new cell contains no
        other answer.
        """
        code = [p for p in self.pieces if p.kind == "code" and p not in self.dropped]
        places = {piece: name for name, piece in self.placed.items()}
        written: dict[str, str] = {}
        for name, names in self.release.names.items():
            defining = [piece for piece in code if names & _defined(piece.source)]
            place = places.get(defining[0], "") if len(defining) == 1 else ""
            if place in self.release.names:
                written[name] = place
        counts = Counter(written.values())
        moved = {n: p for n, p in written.items() if n != p and counts[p] == 1}
        while set(moved) != set(moved.values()):
            moved = {n: p for n, p in moved.items() if p in moved and n in moved.values()}
        sources = {name: self.placed[place].source for name, place in moved.items()}
        for name, source in sources.items():
            comment = f"grade_id: {moved[name]}"
            self.placed[name].source = source.replace(comment, f"grade_id: {name}", 1)
        self.note_if(moved, f"moved answers that were in each other's cells: {_joined(moved)}")

    # --- missing cells and notes ---

    def _missing_sources(self) -> dict[str, str]:
        """Return the sources of the needed cells that are missing, by id.

        If another cell defines the function of a missing answer, the restored answer cell contains
        only its first line, so that the stub doesn't overwrite the student's function.
        """
        defined: set[str] = set()
        for name, piece in [*self.placed.items(), *(("", own) for own in self.own())]:
            if name not in self.release.locked and piece.kind == "code":
                defined |= _defined(piece.source)
        missing = {}
        for name in self.release.cells:
            if name in self.release.needed and name not in self.placed:
                is_elsewhere = self.release.names.get(name, set()) & defined
                source = self.release.source(name)
                missing[name] = source.partition("\n")[0] if is_elsewhere else source
        return missing

    def _note_changes(self, missing: dict[str, str]) -> None:
        """Add a note for each kind of change that the repair undoes."""
        release = self.release
        marked = [(n, self.placed[n]) for n in release.marked if n in self.placed]
        positions = {piece: position for position, piece in enumerate(self.pieces)}
        order = [positions[self.placed[n]] for n in release.cells if n in self.placed]
        types = [n for n, piece in marked if piece.kind != release.kind(n)]
        changed = sum(self._has_other_metadata(piece, name) for name, piece in marked)
        forged = sum(bool(piece.nbgrader) for piece in self.own())
        tests = [name for name in release.locked if name in missing]
        answers = [name for name in release.answers if name in missing]
        others = [name for name in missing if name not in release.marked]
        number = "number of cells"
        self.note_if(self.changed, f"restored changed tests: {_joined(self.changed)}")
        self.note_if(self.copied, f"dropped copies of cells: {_joined(self.copied)}")
        self.note_if(order != sorted(order), "restored the order of the cells")
        self.note_if(types, f"restored the type of cells: {_joined(types)}")
        self.note_if(
            changed, f"restored nbgrader's missing or changed metadata ({number}: {changed})"
        )
        self.note_if(
            forged, f"removed nbgrader's metadata from the student's own cells ({number}: {forged})"
        )
        self.note_if(tests, f"restored missing tests: {_joined(tests)}")
        self.note_if(answers, f"restored missing answer cells: {_joined(answers)}")
        self.note_if(others, f"restored missing set-up cells: {_joined(others)}")

    def _has_other_metadata(self, piece: _Piece, name: str) -> bool:
        released = grading(self.release.cells[name])
        return any(piece.nbgrader.get(key) != released.get(key) for key in GRADING_FIELDS)

    # --- the result ---

    def _assemble(self, missing: dict[str, str]) -> list[Cell]:
        names = {piece: name for name, piece in self.placed.items()}
        following: dict[str, list[_Piece]] = defaultdict(list)
        anchor, own = "", set(self.own())
        for piece in self.pieces:
            anchor = names.get(piece, anchor)
            if piece in own:
                following[anchor].append(piece)
        used = set(self.release.cells)
        cells = [_own_cell(piece, used) for piece in following[""]]
        for name in self.release.cells:
            cells += [_own_cell(piece, used) for piece in self.before[name]]
            if name in self.placed:
                cells.append(self._released_cell(name, self.placed[name]))
            elif name in missing:
                piece = _Piece(self.release.kind(name), missing[name])
                cells.append(self._released_cell(name, piece))
            cells += [_own_cell(piece, used) for piece in following[name]]
        return cells

    def _released_cell(self, name: str, piece: _Piece) -> Cell:
        kind = self.release.kind(name) if name in self.release.marked else piece.kind
        source = self.release.source(name) if name in self.release.locked else piece.source
        return _new_cell(kind, name, self.release.cells[name]["metadata"], source, piece)

    def _doubt_unanswered(self, cells: list[Cell], missing: Iterable[str]) -> None:
        """Find the empty answers, and add a doubt for each answer that another cell may contain."""
        own = [piece for piece in self.own() if piece.source.strip()]
        for name in self.release.answers:
            names, is_code = self.release.names.get(name, set()), self.release.kind(name) == "code"
            defining = [
                position
                for position, cell in enumerate(cells)
                if cell["cell_type"] == "code" and cell["id"] != name
                if names & _defined(cell["source"])
            ]
            source = "" if name in missing else self.placed[name].source
            is_empty = self.release.is_stub(name, source)
            if is_empty and not defining:
                self.unanswered.append(name)
            if name in missing:
                if defining or any((piece.kind == "code") == is_code for piece in own):
                    self.doubts.append(
                        f"the answer {name} is missing: another cell of the notebook may contain it"
                    )
            elif defining and (is_empty or not names & _defined(source)):
                self._doubt_position(name, is_empty, defining, [cell["id"] for cell in cells])

    def _doubt_position(
        self, name: str, is_empty: bool, defining: list[int], ids: list[str]
    ) -> None:
        """Add a doubt if an answer's function is defined only where the tests can't use it."""
        start = ids.index(name)
        end = next((p for p, i in enumerate(ids) if p > start and i in self.release.locked), 0)
        if not any(start < position < end for position in defining):
            names = _joined(sorted(self.release.names[name]))
            self.doubts.append(
                f"the answer {name} is the unchanged stub, but another cell defines {names}"
                if is_empty
                else f"the answer {name} does not define {names}, but another cell does"
            )


def _own_cell(piece: _Piece, used: set[str]) -> Cell:
    """Return a student's own cell, without metadata and with a unique id."""
    name = piece.id
    if not name or name in used:
        name = next(n for n in map("own-{}".format, range(1, len(used) + 2)) if n not in used)
    used.add(name)
    return _new_cell(piece.kind, name, {}, piece.source, piece)


def _new_cell(kind: str, name: str, metadata: dict[str, Any], source: str, piece: _Piece) -> Cell:
    """Return a cell without outputs; a text cell keeps the pictures of its piece."""
    cell: Cell = {"cell_type": kind, "id": name, "metadata": metadata, "source": source}
    if kind == "code":
        return cell | {"execution_count": None, "outputs": []}
    return cell | {"attachments": piece.attachments} if piece.attachments else cell


def _original(name: str, copies: list[_Piece]) -> _Piece:
    """Return the copy that has the released cell's id, or the first copy if no copy has this id.

    A pasted cell gets a new id, so the copy with the released id is the original.
    """
    return next((piece for piece in copies if piece.id == name), copies[0])


def _union(groups: Iterable[Iterable[Any]]) -> set[Any]:
    return {member for group in groups for member in group}


def _joined(names: Iterable[str]) -> str:
    return ", ".join(names)


# --- a file ---------------------------------------------------------------------------------------


def repair_file(
    path: Path | str,
    release: Path,
    *,
    output: Path | str | None = None,
    in_place: bool = False,
    guess: bool = False,
) -> tuple[Path, Repaired]:
    """Repair a notebook, so that it has the cells of the released assignment.

    The result is written to NAME-repaired.ipynb or to `output`. With `in_place`, it replaces the
    notebook, of which NAME.ipynb.bak is a copy. With `guess`, it is written in spite of doubts.
    """
    path = Path(path)
    if in_place and output:
        raise CourseError("choose one of --output and --in-place")
    target = path if in_place else Path(output or path.with_name(f"{path.stem}-repaired.ipynb"))
    if not in_place and target.exists():
        raise CourseError(f"{target} already exists: choose another file with --output")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CourseError(f"{path} can't be read: {error.strerror}") from None
    repaired = repair(load(data), notebooks.load(release))
    if repaired.doubts and not guess:
        raise CourseError(
            f"{path.name} was not repaired, because it is uncertain how: "
            f"{'; '.join(repaired.doubts)} (check the notebook, or repair it anyway with --guess)"
        )
    if in_place:
        shutil.copy2(path, files.unused_path(path.with_name(f"{path.name}.bak")))
    files.write_text(target, notebooks.dump(repaired.notebook))
    return target, repaired


def find_release(
    path: Path | str, assignment: str | None = None, folder: Path | None = None
) -> Path:
    """Return the released notebook of the assignment that a file belongs to.

    Args:
        assignment: the assignment's number or name, such as "03" or "03_lora". By default, the name
            is read from the file's name, such as "student01_03_lora (1).ipynb" or "Copy of
            03_lora.ipynb".
    """
    path, folder = Path(path), folder or notebooks.course_folder()
    releases = sorted((folder / "exercises").glob("[0-9][0-9]_*/[0-9][0-9]_*.ipynb"))
    if assignment is not None:
        return notebooks.chosen(releases, assignment, "assignment", folder / "exercises")[0]
    after = r"(?: ?\(\d+\)|-(?:Copy)?\d+|-repaired)*"
    for release in releases:
        if re.fullmatch(rf"(?:.*[_ +])?{release.stem}{after}", path.stem):
            return release
    names = ", ".join(release.stem for release in releases) or "(there are no assignments)"
    raise CourseError(
        f"the file name {path.name} contains no assignment: name it with --assignment, one of: "
        f"{names}"
    )
