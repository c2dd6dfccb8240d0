"""The hostile corpus: submissions that try to gain points, to escape, or to stop the batch.

tests/hostile/submissions/NAME.py is one submission. It opens with what it tries and what must
happen, then come its cells, by the ids of the release:

    # tries: an int subclass that equals everything, returned by the answer
    # must: no point; graded
    # %% answer sum-all                 the source of this answer
    # %% test sum-all-form              instead of this cell of the instructor's
    # %% cell after setup               a cell of its own; or: cell before ID

What can't be said by cells is a function `submission(release)` that returns the files of the
folder: bytes, or a `Link`, by relative path. Nothing but that function is ever run outside of a
sandbox, and all it may do is to put bytes together.

"must" holds, separated by semicolons:

    points   "no point", "at most 1 point", or for honest work "9 points", neither more nor less
    states   "graded", "needs a person", "ungradable"; several are joined by "or". A question that
             a person grades doesn't count here: it makes no submission special
    says     optional: "says REGEX", found in the reasons, repairs or messages of the record

A submission that holds no right answer deserves no point; one whose honest part deserves some
says how many. More than that is a gain.
"""

from __future__ import annotations

import copy
import json
import os
import re
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.grading.results.records import STATES
from tests import assignment as sums
from tests.hostile import tensors

FOLDER = Path(__file__).with_name("submissions")
HEADER = re.compile(r"# (tries|must|student|assignment): (.+)\n")
PIECE = re.compile(r"^# %% (answer|test|cell after|cell before) (\S+)\n", re.M)
POINTS = re.compile(r"(no point|at most (\d+) points?|(\d+) points?)$")

STUDENT = "student02"  # who hands in an attack, between two honest ones
HONEST = ("student01", "student03")
HONEST_POINTS = 9  # by checks, in either assignment; the question is graded by a person

Notebook = dict[str, Any]


@dataclass(frozen=True)
class Link:
    """A symbolic link to `target`; by `kind` a hard link, a FIFO, or a large file of zeros."""

    target: str = ""
    kind: str = "symbolic"


Files = dict[str, bytes | Link]


@dataclass(frozen=True)
class Attack:
    """One submission of the corpus.

    most, least: points it must not exceed and, for honest work, must get. states: one of which it
    must end in. says: a regular expression that the record must match, or "".
    student: in whose name it is handed in. assignment: for which.
    """

    name: str
    tries: str
    must: str
    most: float
    least: float
    states: tuple[str, ...]
    says: str
    student: str
    assignment: str
    files: Callable[[Notebook], Files]


def attacks(only: str = "") -> list[Attack]:
    """The whole corpus, by name; or those whose name holds `only`."""
    return [read(path) for path in sorted(FOLDER.glob("*.py")) if only in path.stem]


def read(path: Path) -> Attack:
    """One submission. Raises ValueError if its first lines aren't as they should be."""
    text = path.read_text(encoding="utf-8")
    header = dict(HEADER.findall(text))
    try:
        most, least, states, says = _must(header["must"])
        tries = header["tries"]
    except (KeyError, ValueError) as fault:
        raise ValueError(f"{path.name}: {fault}") from None
    if re.search(r"^def submission\(", text, re.M):
        files = runpy.run_path(str(path))["submission"]
    else:
        pieces = PIECE.split(text)[1:]
        cells = list(zip(pieces[::3], pieces[1::3], map(str.strip, pieces[2::3]), strict=True))
        files = _files_of(header.get("assignment", sums.NAME), cells)
    return Attack(
        name=path.stem,
        tries=tries,
        must=header["must"],
        most=most,
        least=least,
        states=states,
        says=says,
        student=re.sub(r"\\u([0-9a-f]{4})", _letter, header.get("student", STUDENT)),
        assignment=header.get("assignment", sums.NAME),
        files=files,
    )


def _letter(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16))


def _must(text: str) -> tuple[float, float, tuple[str, ...], str]:
    """Most and least points, states and what is said."""
    points, states, *says = (part.strip() for part in text.split(";", 2))
    found = POINTS.match(points)
    if not found:
        raise ValueError(f"{points!r} doesn't say how many points")
    most = float(found[2] or found[3] or 0)
    allowed = tuple(states.split(" or "))
    if set(allowed) - set(STATES):
        raise ValueError(f"{states!r} aren't states")
    if says and not says[0].startswith("says "):
        raise ValueError(f"{says[0]!r} should begin with 'says'")
    return most, most if found[3] else 0, allowed, says[0].removeprefix("says ") if says else ""


# --- what a submission is made of -----------------------------------------------------------------


def _files_of(name: str, cells: list[tuple[str, str, str]]) -> Callable[[Notebook], Files]:
    """A submission whose notebook is the release with these cells changed or added."""

    def files(release: Notebook) -> Files:
        notebook = copy.deepcopy(release)
        for kind, cell_id, source in cells:
            if kind in ("answer", "test"):
                fill(notebook, cell_id, source)
            else:
                add(notebook, cell_id, source, before=kind == "cell before")
        return {f"{name}.ipynb": dump(notebook)}

    return files


def fill(notebook: Notebook, cell_id: str, source: str) -> None:
    """Replace the source of a cell; its first line, which names it, is kept."""
    cell = find(notebook, cell_id)
    cell["source"] = f"{cell['source'].splitlines()[0]}\n{source}"


def add(
    notebook: Notebook, cell_id: str, source: str, before: bool = False, **changes: Any
) -> None:
    """Put a code cell behind another, or before it. changes: of its keys."""
    place = notebook["cells"].index(find(notebook, cell_id)) + (not before)
    number = f"own-{len(notebook['cells'])}"
    notebook["cells"].insert(place, sums.cell(number, source) | changes)


def find(notebook: Notebook, cell_id: str) -> dict[str, Any]:
    """The cell of this id."""
    return next(cell for cell in notebook["cells"] if cell.get("id") == cell_id)


def dump(notebook: Notebook) -> bytes:
    """The notebook as a file holds it."""
    return json.dumps(notebook, indent=1).encode()


def right(release: Notebook, *without: str) -> Notebook:
    """The release with the reference's answers in all of its tasks but these."""
    notebook = copy.deepcopy(release)
    solution = {cell["id"]: cell for cell in reference(release)["cells"]}
    for cell in notebook["cells"]:
        data = cell["metadata"].get("nbgrader", {})
        if data.get("solution") and cell["id"] not in without:
            text = solution[cell["id"]]["source"]
            cell["source"] = re.sub(r"\n *### (BEGIN|END) SOLUTION(?=\n|$)", "", text)
    return notebook


def reference(release: Notebook) -> Notebook:
    """The solution of the assignment that this is the release of."""
    return tensors.notebook() if release["cells"][0]["id"] == tensors.OPENING else sums.notebook()


# --- on disk --------------------------------------------------------------------------------------


def course(root: Path, folder: Path, name: str, secrets: dict[str, str]) -> Path:
    """A course in `folder` with the assignment released and both honest submissions handed in.

    secrets: a text by "hidden test", "solution" and "submission", to be hidden in each of these.
    """
    from course_utils.grading import release

    content = (tensors if name == tensors.NAME else sums).notebook()
    for cell in content["cells"]:
        cell["source"] = (
            cell["source"]
            .replace(
                "### BEGIN HIDDEN TESTS\n", f"### BEGIN HIDDEN TESTS\n# {secrets['hidden test']}\n"
            )
            .replace(
                "### BEGIN SOLUTION\n    ", f"### BEGIN SOLUTION\n    # {secrets['solution']}\n    "
            )
        )
    target = folder
    sums.write(target, content, name)
    (target / "exercises").mkdir(exist_ok=True)
    (target / release.SETTINGS).write_bytes((root / release.SETTINGS).read_bytes())
    release.release(target)
    notebook = right(released(target, name))
    add(notebook, "imports", f"# {secrets['submission']}")
    for student in HONEST:
        _put(target / "submitted" / student / name, {f"{name}.ipynb": dump(notebook)})
    return target


def hide_in_gradebook(folder: Path, secrets: dict[str, str]) -> None:
    """Put the gradebook's canary into the gradebook of a course: a student's name."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}", "qlora") as book:
        book.update_or_create_student(HONEST[0], last_name=secrets["gradebook"])


def released(folder: Path, name: str) -> Notebook:
    """The notebook that students of this course got; each cell's source is one string."""
    path = folder / "exercises" / name / f"{name}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def write(attack: Attack, folder: Path, student: str = "") -> Path:
    """Hand an attack in to the course in `folder`; returns the folder of the submission."""
    target = folder / "submitted" / (student or attack.student) / attack.assignment
    _put(target, attack.files(released(folder, attack.assignment)))
    return target


def _put(target: Path, files: Files) -> None:
    """Write files; the name "." stands for the folder itself."""
    if isinstance(link := files.get("."), Link):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(link.target)
        return
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = target / name
        for parent in reversed(path.relative_to(target).parents):
            (target / parent).mkdir(exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content.kind == "fifo":
            os.mkfifo(path)
        elif content.kind == "sparse":
            with path.open("wb") as file:
                file.truncate(int(content.target))
        elif content.kind == "hard":
            path.hardlink_to(path.parent / content.target)
        else:
            path.symlink_to(content.target)
