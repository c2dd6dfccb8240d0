"""The hostile corpus: submissions that try to gain points, to escape, or to stop the batch.

tests/hostile/submissions/NAME.py is one submission. It begins with what it tries and what must
happen. Its cells follow, by the ids of the released notebook:

    # tries: an int subclass that equals everything, returned by the answer
    # must: no point; graded
    # %% answer sum-all                 the source of this answer
    # %% test sum-all-form              replaces this test cell of the instructor
    # %% cell after setup               an additional cell; or: cell before ID

A submission that can't be described by cells is a function `submission(release)`. The function
returns the files of the submission's folder: bytes, or a `Link`, by relative path. Only this
function runs outside of a sandbox, so it must do nothing but compose the files.

"must" has two or three parts, which are separated by semicolons:

    points   "no point", "at most 1 point", or for honest work the exact number, as in "9 points"
    states   "graded", "needs a person" or "ungradable"; several states are joined by "or". The
             question that a person grades in every submission has no effect on the state
    says     optional: "says REGEX", which the reasons, repairs or messages of the record match

A submission without a correct answer deserves no point. If the honest part of a submission deserves
points, "must" says how many.
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

from tests import assignment as sums
from tests.hostile import tensors
from workshop.grading.records import STATES

FOLDER = Path(__file__).with_name("submissions")
HEADER = re.compile(r"# (tries|must|student|assignment): (.+)\n")
PIECE = re.compile(r"^# %% (answer|test|cell after|cell before) (\S+)\n", re.M)
POINTS = re.compile(r"(no point|at most (\d+) points?|(\d+) points?)$")

# The student who submits an attack, and two honest students.
STUDENT = "student02"
HONEST = ("student01", "student03")
# The points of the checks in each assignment. A person grades the question.
HONEST_POINTS = 9

Notebook = dict[str, Any]


@dataclass(frozen=True)
class Link:
    """A link or a special file in a submission.

    Attributes:
        target: The path to which the link leads; for "sparse", the file's size in bytes (B).
        kind: "symbolic" or "hard" for a link, "fifo", or "sparse" for a large file of zeros.
    """

    target: str = ""
    kind: str = "symbolic"


Files = dict[str, bytes | Link]


@dataclass(frozen=True)
class Attack:
    """One submission of the corpus.

    Attributes:
        name: The name of the submission's file.
        tries: What the submission tries.
        must: What must happen, in words.
        most: Maximum number of points.
        least: Minimum number of points; 0 unless the submission is honest.
        states: The allowed states.
        says: A regular expression that the record must match; "" if there is none.
        student: The student in whose name the attack is submitted.
        assignment: The name of the assignment.
        files: A function that returns the files of the submission for a released notebook.
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
    """Return all attacks whose names contain `only`, by name."""
    return [read(path) for path in sorted(FOLDER.glob("*.py")) if only in path.stem]


def read(path: Path) -> Attack:
    """Read one submission.

    Raises:
        ValueError: The header of the file is incomplete or has an unknown form.
    """
    text = path.read_text(encoding="utf-8")
    header = dict(HEADER.findall(text))
    try:
        most, least, states, says = _must(header["must"])
        tries = header["tries"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from None
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
    """Return the maximum and minimum of points, the states, and the regular expression."""
    points, states, *says = (part.strip() for part in text.split(";", 2))
    match = POINTS.match(points)
    if not match:
        raise ValueError(f"{points!r} is not a number of points")
    most = float(match[2] or match[3] or 0)
    allowed = tuple(states.split(" or "))
    if set(allowed) - set(STATES):
        raise ValueError(f"{states!r} contains an unknown state")
    if says and not says[0].startswith("says "):
        raise ValueError(f"{says[0]!r} must begin with 'says'")
    return most, most if match[3] else 0, allowed, says[0].removeprefix("says ") if says else ""


# --- the files of a submission --------------------------------------------------------------------


def _files_of(name: str, cells: list[tuple[str, str, str]]) -> Callable[[Notebook], Files]:
    """Return a function that changes cells of the released notebook, or adds cells to it."""

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
    """Replace the source of a cell except its first line, which contains the cell's id."""
    cell = find(notebook, cell_id)
    cell["source"] = f"{cell['source'].splitlines()[0]}\n{source}"


def add(
    notebook: Notebook, cell_id: str, source: str, before: bool = False, **changes: Any
) -> None:
    """Add a code cell after or before another cell.

    Args:
        notebook: The notebook.
        cell_id: The id of the other cell.
        source: The source of the new cell.
        before: Whether the new cell is added before the other cell.
        changes: Keys of the new cell with values that differ from those of a normal code cell.
    """
    place = notebook["cells"].index(find(notebook, cell_id)) + (not before)
    number = f"own-{len(notebook['cells'])}"
    notebook["cells"].insert(place, sums.cell(number, source) | changes)


def find(notebook: Notebook, cell_id: str) -> dict[str, Any]:
    """Return the cell with this id."""
    return next(cell for cell in notebook["cells"] if cell.get("id") == cell_id)


def dump(notebook: Notebook) -> bytes:
    """Return the bytes of the notebook's file."""
    return json.dumps(notebook, indent=1).encode()


def right(release: Notebook, *without: str) -> Notebook:
    """Return the released notebook with correct answers to all tasks except `without`."""
    notebook = copy.deepcopy(release)
    solution = {cell["id"]: cell for cell in reference(release)["cells"]}
    for cell in notebook["cells"]:
        data = cell["metadata"].get("nbgrader", {})
        if data.get("solution") and cell["id"] not in without:
            text = solution[cell["id"]]["source"]
            cell["source"] = re.sub(r"\n *### (BEGIN|END) SOLUTION(?=\n|$)", "", text)
    return notebook


def reference(release: Notebook) -> Notebook:
    """Return the solution of the assignment with this released notebook."""
    return tensors.notebook() if release["cells"][0]["id"] == tensors.OPENING else sums.notebook()


# --- courses and submissions as files -------------------------------------------------------------


def course(root: Path, folder: Path, name: str, secrets: dict[str, str]) -> Path:
    """Create a course with a released assignment and the submissions of both honest students.

    Args:
        root: The folder of this repository.
        folder: The folder of the new course.
        name: The assignment's name.
        secrets: The canaries for "hidden test", "solution" and "submission".

    Returns:
        The folder of the course.
    """
    from workshop.grading import release

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
    sums.write(folder, content, name)
    (folder / "exercises").mkdir(exist_ok=True)
    (folder / release.SETTINGS).write_bytes((root / release.SETTINGS).read_bytes())
    release.release(folder)
    notebook = right(released(folder, name))
    add(notebook, "imports", f"# {secrets['submission']}")
    for student in HONEST:
        _write_files(folder / "submitted" / student / name, {f"{name}.ipynb": dump(notebook)})
    return folder


def hide_in_gradebook(folder: Path, secrets: dict[str, str]) -> None:
    """Store the gradebook's canary in the gradebook of a course, as the name of a student."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}", "qlora") as book:
        book.update_or_create_student(HONEST[0], last_name=secrets["gradebook"])


def released(folder: Path, name: str) -> Notebook:
    """Return the released notebook, in which the source of each cell is one string."""
    path = folder / "exercises" / name / f"{name}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def write(attack: Attack, folder: Path, student: str = "") -> Path:
    """Submit an attack to the course in `folder`, and return the folder of the submission."""
    target = folder / "submitted" / (student or attack.student) / attack.assignment
    _write_files(target, attack.files(released(folder, attack.assignment)))
    return target


def _write_files(target: Path, files: Files) -> None:
    """Write files to a folder; if the name of a link is ".", the folder itself is the link."""
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
