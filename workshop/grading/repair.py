"""Turn a student's file into a notebook that can be graded, and list the repairs.

A test is recognized by the comment `# grade_id: NAME` in its text. Any other cell of the release is
recognized by this comment, by nbgrader's metadata, by the cell's id, or by its unchanged text. All
other cells are the student's own cells. A person must check those that may contain an answer.

    handed in               result
    sum-all, first answer   sum-all, first answer    is now one of the student's own cells
    my own cell             my own cell              follows the same cell as before
    sum-all, last answer    sum-all, last answer     counts, because it is the last answer
    sum-all-form, edited    sum-all-form             gets the release's text and metadata

A malicious file may fill the memory of the process that reads it. So the sandbox runs the repair:

    grader: request(data, release)  ──►  test process: run  ──►  grader: result, or Ungradable

The repair's running time grows linearly with the size of the file.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import takewhile
from textwrap import shorten
from typing import Any

from course_utils.machine.validation import CourseError
from workshop.grading.assignments import Cell, grading, is_answer
from workshop.grading.spec import MAX_NOTEBOOK, Notebook

# Maximum number of cells, and maximum sizes of their text and of their pictures, in bytes (B).
MAX_CELLS, MAX_TEXT, MAX_PICTURES = 2_000, 10_000_000, 100_000_000
COMMENT = re.compile(r"^(?:# @title .*\n)?(?:#|<!--) *grade_id: *([\w-]+).*$", re.M)
# Matches the names that a code cell defines. The module ast isn't used, because its parser crashes
# on some students' code.
DEFINES = re.compile(r"^(?:(?:async +)?def|class) +(\w+)|^(\w+)(?: *:[^=\n]+| *)=(?!=)", re.M)
# Picture formats that can't contain scripts.
PICTURES = ("image/png", "image/jpeg", "image/gif")
CLEAR = "clear all outputs, save the notebook, and hand it in again"
OTHER = "the file is empty or no notebook (zip? web page?): hand in the file that ends in .ipynb"
CUT_OFF = "the file is incomplete: the upload was cut off, so hand in the notebook again"
SAVE_AGAIN = "open it in JupyterLab, save it, and hand it in again"


class Ungradable(CourseError):
    """Raised if a submission can't be graded; the message says why and what to do."""


@dataclass(frozen=True)
class Repaired:
    """A notebook that can be graded.

    Attributes:
        notebook: The notebook, in nbformat 4.5, without outputs.
        notes: The repairs, one line each.
        doubts: What a person must check, one line each.
        unanswered: The ids of the answer cells in which the student has written nothing.
        python: The version of Python with which the notebook was saved; "" if it is unknown.
    """

    notebook: Notebook
    notes: list[str]
    doubts: list[str]
    unanswered: list[str]
    python: str


def repair(data: bytes, release: Notebook) -> Repaired:
    """Return the released notebook with the student's answers and own cells.

    Each answer, test and set-up cell of the release occurs once in the result. Tests get the
    release's text. Answers keep the student's text, but get the released cell's metadata and type.
    Each of the student's own cells follows the same cell as before and loses its metadata.

    Raises:
        Ungradable: The file is not a notebook, is too large, or contains no answer and no test of
            the release. No other exception is raised.
    """
    try:
        content = _parsed(data)
        work = _Repair(_cells(content), release)
        cells = work.assembled()
        unanswered = work.unanswered(cells)
    except (RecursionError, MemoryError):
        raise Ungradable(f"the file is too large or nested too deeply: {CLEAR}") from None
    repaired = [(what, ", ".join(names)) for what, names in work.repaired.items() if names]
    notes = [f"{what}: {shorten(names, 300, placeholder='…')}" for what, names in repaired]
    notebook = {"cells": cells, "metadata": release["metadata"], "nbformat": 4, "nbformat_minor": 5}
    return Repaired(notebook, notes, work.doubts, unanswered, _python(content))


# --- reading --------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Piece:
    """A submitted cell, or a part of a submitted cell that contains several released cells.

    Attributes:
        pictures: The pictures of a text cell by name, as in nbformat's `attachments`.
        nbgrader: nbgrader's metadata.
        name: The id of the released cell to which the piece belongs; "" if it belongs to none.
        commented: Whether the piece contains the grade_id comment of that released cell.
    """

    kind: str
    source: str
    pictures: dict[str, Any] = field(default_factory=dict)
    id: Any = ""
    nbgrader: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    commented: bool = False


def _parsed(data: bytes) -> Any:
    """Return the content of a JSON file, without the outputs of cells."""
    if len(data) > MAX_NOTEBOOK:
        raise Ungradable(f"the file has more than {MAX_NOTEBOOK / 1e6:,.0f} MB: {CLEAR}")
    text = data.decode(json.detect_encoding(data[:4]), "replace").strip("\ufeff\0 \t\r\n")
    if not text.startswith("{"):
        raise Ungradable(OTHER)
    try:
        return json.loads(text, object_hook=_without_outputs, parse_int=float)
    except json.JSONDecodeError as error:
        problem = f"the file is not valid JSON from line {error.lineno} on: {SAVE_AGAIN}"
        raise Ungradable(problem if text.endswith("}") else CUT_OFF) from None


def _without_outputs(content: dict[str, Any]) -> dict[str, Any]:
    """Return a cell's content without its outputs, which can be very large."""
    if "cell_type" in content:
        content.pop("outputs", None)
    return content


def _python(content: Any) -> str:
    match content:
        case {"metadata": {"language_info": {"version": str(version)}}}:
            return _clean(version)[:20]
    return ""


def _cells(content: Any) -> list[_Piece]:
    match content:
        case {"cells": [*cells]} if content.get("nbformat", 4) == 4:
            return _limited([_cell(cell) for cell in cells if isinstance(cell, dict)])
    raise Ungradable(f"the file is not a notebook in format 4 with a list of cells: {SAVE_AGAIN}")


def _cell(cell: dict[str, Any]) -> _Piece:
    source, kind = cell.get("source", ""), cell.get("cell_type")
    metadata, pictures = cell.get("metadata"), cell.get("attachments")
    lines = source if isinstance(source, list) else [source]
    nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    return _Piece(
        kind=kind if kind in ("code", "markdown") else "raw",
        source=_clean("".join(line for line in lines if isinstance(line, str))),
        pictures={
            _clean(name): {kind: data}
            for name, picture in (pictures.items() if isinstance(pictures, dict) else ())
            for kind, data in (picture.items() if isinstance(picture, dict) else ())
            if kind in PICTURES and isinstance(data, str) and data.isascii()
        },
        id=cell.get("id"),
        nbgrader=nbgrader if isinstance(nbgrader, dict) else {},
    )


def _clean(text: str) -> str:
    r"""Return the text with "\n" as line ends and without surrogates, which can't be encoded."""
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _limited(pieces: list[_Piece]) -> list[_Piece]:
    text = sum(len(piece.source) for piece in pieces)
    size = sum(len(json.dumps(piece.pictures)) for piece in pieces if piece.pictures)
    if len(pieces) > MAX_CELLS or text > MAX_TEXT or size > MAX_PICTURES:
        allowed = "2,000 cells, 10 MB of text and 100 MB of pictures"
        raise Ungradable(f"the notebook has more than {allowed}: {CLEAR}")
    return pieces


# --- repairing ------------------------------------------------------------------------------------


class _Repair:
    """The repair of one notebook.

    Attributes:
        names: For each answer cell, the names that its released code defines.
        pieces: The pieces that are kept. Pieces with the name "" are the student's own cells.
        repaired: The ids of the repaired cells, by the kind of repair.
    """

    def __init__(self, cells: list[_Piece], release: Notebook):
        self.released = {c["id"]: {**c, "source": "".join(c["source"])} for c in release["cells"]}
        self.marked = [name for name, cell in self.released.items() if grading(cell)]
        self.answers = [name for name in self.marked if is_answer(self.released[name])]
        self.tests = [name for name in self.marked if name not in self.answers]
        self.ids_by_text = {_trimmed(c["source"]): name for name, c in self.released.items()}
        code = [name for name in self.answers if self.released[name]["cell_type"] == "code"]
        self.names = {name: defined(self.released[name]["source"]) for name in code}
        self.repaired: dict[str, list[str]] = defaultdict(list)
        self.doubts: list[str] = []
        self.pieces = _limited([piece for cell in cells for piece in self._split(cell)])
        for name in self.released:
            if copies := [piece for piece in self.pieces if piece.name == name]:
                self._place(name, copies)
        if not any(piece.name in self.marked for piece in self.pieces):
            raise Ungradable("there is no graded cell of this assignment: hand in the right file")
        self._restore_missing()

    def _split(self, cell: _Piece) -> list[_Piece]:
        """Split a submitted cell into pieces: one for each released cell, and the student's own.

        Text above the first grade_id comment becomes part of the answer that the comment names. If
        the comment names a test, the text becomes a student's own cell instead. So does text below
        an unchanged test, and a changed test that defines or imports something new.
        """
        grade_id, text = cell.nbgrader.get("grade_id"), _trimmed(cell.source)
        for name in (grade_id, cell.id, self.ids_by_text.get(text)):
            if isinstance(name, str) and name in self.released and name not in self.tests:
                cell.name = cell.name or name
        comments = [m for m in COMMENT.finditer(cell.source) if m[1] in self.marked]
        if not comments:
            return [cell]
        starts, pieces = [*(comment.start() for comment in comments), len(cell.source)], []
        if comments[0][1] in self.answers:
            starts[0] = 0
        elif (above := cell.source[: starts[0]]).strip():
            pieces.append(replace(cell, source=above))
        for comment, start, end in zip(comments, starts, starts[1:], strict=False):
            name, source = comment[1], cell.source[start:end].strip("\n")
            test = self.released[name]["source"].strip("\n") if name in self.tests else source
            above, found, below = source.partition(test)
            own = (defined(above) | _imports(above)) - defined(test) - _imports(test)
            name = "" if own else name
            pieces.append(replace(cell, source=above + found, name=name, commented=True))
            if below.strip():
                pieces.append(replace(cell, source=below.strip("\n")))
        if pieces[1:]:
            self.repaired["split merged cells"] += dict.fromkeys(match[1] for match in comments)
        return pieces

    def _place(self, name: str, copies: list[_Piece]) -> None:
        """Choose which of several copies becomes the released cell; drop stubs and equal copies.

        The last of several different answers counts. If a student has split an answer into parts,
        all parts have the answer's metadata. Then only the part with the grade_id comment or the
        function's definition counts. Other answers and parts become the student's own cells.
        """
        released, placed, dropped = self.released[name], copies[0], []
        if name in self.tests:
            dropped = copies[1:]
            if any(_trimmed(p.source) != _trimmed(released["source"]) for p in copies):
                self.repaired["restored changed tests"].append(name)
        elif name in self.answers:
            filled = [p for p in copies if not self._is_stub(name, p.source)] or copies[:1]
            defining = [
                p for p in filled if p.commented or defined(p.source) & self.names.get(name, set())
            ]
            answers = defining or filled
            count = len({_trimmed(piece.source) for piece in answers})
            placed = answers[-1 if count > 1 else 0]
            if count > 1:
                self.doubts.append(f"{name} has {count} different answers: the last one counts")
            text = _trimmed(placed.source)
            dropped = [p for p in copies if p not in filled or _trimmed(p.source) == text]
        for piece in copies:
            piece.name = name if piece is placed else ""
        if left_out := {*dropped} - {placed}:
            self.pieces = [piece for piece in self.pieces if piece not in left_out]
            self.repaired["dropped copies of cells"].append(name)
        before, after = (placed.kind, placed.nbgrader), (released["cell_type"], grading(released))
        if name in self.marked and before != after:
            self.repaired["restored the type or nbgrader's metadata"].append(name)

    def _is_stub(self, name: str, source: str) -> bool:
        """Return whether an answer contains no student's work: it is empty or still the stub."""
        stub = self.released[name]["source"]
        return _trimmed(COMMENT.sub("", source)) in ("", _trimmed(COMMENT.sub("", stub)))

    def _restore_missing(self) -> None:
        """Add the answer, test and set-up cells of the release that were not handed in.

        If another cell defines the function of a missing answer, only the answer's first line is
        restored. Otherwise, the released stub would replace the student's function.
        """
        found = {piece.name for piece in self.pieces}
        written = {name for piece in self.pieces for name in defined(piece.source)}
        top = takewhile(lambda name: name not in self.marked, self.released)
        setup = [name for name in top if self.released[name]["cell_type"] == "code"]
        for name in (name for name in (*setup, *self.marked) if name not in found):
            cell = self.released[name]
            is_elsewhere = self.names.get(name, set()) & written
            source = cell["source"].partition("\n")[0] if is_elsewhere else cell["source"]
            self.pieces.append(_Piece(cell["cell_type"], source, name=name))
            self.repaired["restored missing cells"].append(name)

    def assembled(self) -> list[Cell]:
        """Return all cells of the new notebook, in the order of the release."""
        order = {name: place for place, name in enumerate(self.released, 1)}
        place, places = 0, {}
        for piece in self.pieces:
            place = order.get(piece.name, place)
            places[piece] = (place, not piece.name)
        pieces = sorted(self.pieces, key=places.__getitem__)
        return [self._new_cell(piece, number) for number, piece in enumerate(pieces, 1)]

    def _new_cell(self, piece: _Piece, number: int) -> Cell:
        released = self.released.get(piece.name, {"id": f"own-cell-{number}", "metadata": {}})
        kind = released["cell_type"] if piece.name in self.marked else piece.kind
        cell = {"cell_type": kind, "id": released["id"], "metadata": released["metadata"]}
        cell["source"] = released["source"] if piece.name in self.tests else piece.source
        if kind == "code":
            return cell | {"execution_count": None, "outputs": []}
        return cell | ({"attachments": piece.pictures} if piece.pictures else {})

    def unanswered(self, cells: list[Cell]) -> list[str]:
        """Return the ids of the answer cells in which the student has written nothing.

        This method also adds doubts about answers that are in a place where the tests can't use
        them, and about empty answers whose text may be in another cell.
        """
        ids = [cell["id"] for cell in cells]
        sources = {cell["id"]: cell["source"] for cell in cells}
        empty = [name for name in self.answers if self._is_stub(name, sources[name])]
        code = [cell["id"] for cell in cells if cell["cell_type"] == "code"]
        written = {i: defined(sources[i]) for i in code if i not in [*self.tests, *empty]}
        missing, unanswered = self.repaired["restored missing cells"], []
        for name in self.answers:
            places = [i for i, names in written.items() if names & self.names.get(name, set())]
            usable = takewhile(lambda i: i not in self.tests, ids[ids.index(name) :])
            if places and not set(places) & set(usable):
                where = f"the answer {places[0]}" if places[0] in self.answers else "another cell"
                names = ", ".join(sorted(self.names[name]))
                self.doubts.append(f"the answer {name} does not define {names}, but {where} does")
            elif not places and name in empty:
                unanswered.append(name)
                if name in missing and not self.released.keys() >= set(ids):
                    self.doubts.append(f"the answer {name} is missing: another cell may contain it")
                elif name not in missing and self._may_be_elsewhere(name, cells):
                    self.doubts.append(f"the answer {name} is empty: another cell may contain it")
        return unanswered

    def _may_be_elsewhere(self, name: str, cells: list[Cell]) -> bool:
        """Return whether an empty answer may be in a text cell or beside its own cell."""
        if names := self.names.get(name, set()):
            return any(defined(c["source"]) & names for c in cells if c["cell_type"] != "code")
        place = next(number for number, cell in enumerate(cells) if cell["id"] == name)
        beside = [c for c in cells[max(place - 1, 0) : place + 2] if c["id"] not in self.marked]
        texts = {_trimmed(cell["source"]) for cell in beside} - {""}
        return not texts <= self.ids_by_text.keys()


def _trimmed(text: str) -> str:
    """Return the text without trailing spaces, and without empty lines at its start and end."""
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def defined(source: str) -> set[str]:
    """Return the names that the unindented lines of a cell define."""
    return {function or name for function, name in DEFINES.findall(source)}


def _imports(source: str) -> set[str]:
    """Return the unindented lines of a cell that import something."""
    return {n.rstrip() for n in source.split("\n") if n.startswith(("import ", "from "))}


# --- across the sandbox ---------------------------------------------------------------------------


def request(data: bytes, release: bytes) -> bytes:
    """Return the argument of `run`: the release and the submission as bytes."""
    return len(release).to_bytes(8, "big") + release + data


def run(request: bytes) -> bytes:
    """Repair the submission in a request, and return the response for `result`."""
    end = 8 + int.from_bytes(request[:8], "big")
    try:
        response = vars(repair(request[end:], json.loads(request[8:end])))
    except Ungradable as error:
        response = {"ungradable": str(error)}
    return json.dumps(response, ensure_ascii=False).encode()


def result(response: bytes) -> Repaired:
    """Return the repaired notebook in a response.

    Raises:
        Ungradable: The submission can't be graded, or the response is not valid.
    """
    match content := json.loads(response):
        case {"ungradable": str(reason)}:
            raise Ungradable(reason)
        case {"notebook": {"cells": list()}, "notes": list(), "doubts": list(), "python": str()}:
            return Repaired(**content)
    raise Ungradable("the response is malformed")
