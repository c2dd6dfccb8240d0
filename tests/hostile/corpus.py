"""The hostile corpus: submissions that try to gain points, to escape, or to stop the batch.

tests/hostile/submissions/KIND.py contains the submissions of one kind. The file begins with the
kind's title and with what must happen. Each submission says what it tries, and lists its cells:

    # === value_equality
    # tries: an int subclass that equals everything
    # must: no point; graded            unless it is what the beginning of the file says
    # %% add(numbers)                   the body of the function in an answer cell
    # %% answer sum-all                 or the whole source of an answer cell
    # %% inside sum-all                 lines before the last line of an answer cell
    # %% test sum-all-form              replaces this test cell of the instructor
    # %% cell after setup               an additional cell; or: cell before ID
    # %% notebook                       changes the `notebook` outside of the sandbox
    # %% files                          changes the `files` of the submission: bytes or a `Link`

Only the last two kinds of cells run outside of a sandbox, with the names of this module, so they
must do nothing but compose the files. The other cells can use tools.py, which is the first cell of
each submission that has other cells. But with the line "from: solution", a submission contains
correct answers instead of stubs, and no tools.

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
import itertools
import json
import os
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import assignment as sums
from tests.hostile import tensors
from tests.mutation import ROOT
from workshop.grading.records import STATES

FOLDER = Path(__file__).with_name("submissions")
TOOLS = Path(__file__).with_name("tools.py")
ATTACK = re.compile(r"^# === (\w+)\n", re.M)
FIELD = re.compile(r"^# (tries|must|student|assignment|from): (.+)\n", re.M)
PIECE = re.compile(r"^# %% (.+)\n", re.M)
STATE = f"(?:{'|'.join(STATES)})"
MUST = re.compile(
    rf"(?:no point|(at most )?(\d+) points?); ({STATE}(?: or {STATE})*)(?:; says (.+))?"
)

# The student who submits an attack, and two honest students.
STUDENT = "student02"
HONEST = ("student01", "student03")
# The answer cells of both assignments, by the name of the function that they define.
ANSWERS = {function: name for name, function, *_ in sums.TASKS}
ANSWERS |= {signature.partition("(")[0]: name for name, (signature, *_) in tensors.TASKS.items()}
# The points of the checks in each assignment. A person grades the question.
HONEST_POINTS = 9

Notebook = dict[str, Any]
Cell = dict[str, Any]


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
        name: The kind and a short name.
        tries: What the submission tries.
        must: What must happen, in words.
        most: Maximum number of points.
        least: Minimum number of points; 0 unless the submission is honest.
        states: The allowed states.
        says: A regular expression that the record must match; "" if there is none.
        student: The student in whose name the attack is submitted.
        assignment: The name of the assignment.
        base: "solution" if the cells change the solution; otherwise they change the release.
        cells: The headings and the sources of the submission's cells.
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
    base: str
    cells: tuple[tuple[str, str], ...]

    def files(self, release: Notebook) -> Files:
        """Return the files of the submission for a released notebook.

        Raises:
            ValueError: The heading of a cell is unknown.
        """
        file = f"{self.assignment}.ipynb"
        notebook = right(release) if self.base == "solution" else copy.deepcopy(release)
        names = {**globals(), "FILE": file, "notebook": notebook, "release": release}
        if self.base != "solution" and set(dict(self.cells)) - {"notebook", "files"}:
            add(notebook, "setup", TOOLS.read_text(encoding="utf-8").strip(), before=True)
        for heading, source in self.cells:
            kind, _, cell_id = heading.rpartition(" ")
            answer = ANSWERS.get(heading.partition("(")[0])
            if answer:
                fill(notebook, answer, f"def {heading}:\n{textwrap.indent(source, '    ')}")
            elif kind in ("answer", "test"):
                fill(notebook, cell_id, source)
            elif kind == "inside":
                cell = find(notebook, cell_id)
                body, _, end = cell["source"].rpartition("\n")
                cell["source"] = f"{body}\n{textwrap.indent(source, '    ')}\n{end}"
            elif kind in ("cell after", "cell before"):
                add(notebook, cell_id, source, before=kind == "cell before")
            elif heading == "notebook":
                exec(source, names)
            elif heading != "files":
                raise ValueError(f"{self.name}: unknown heading {heading!r}")
        files: Files = {file: dump(notebook)}
        exec(dict(self.cells).get("files", ""), names | {"files": files})
        return files


def attacks(only: str = "") -> list[Attack]:
    """Return all attacks whose names contain `only`, by kind."""
    found = itertools.chain.from_iterable(map(read, sorted(FOLDER.glob("*.py"))))
    return [attack for attack in found if only in attack.name]


def read(path: Path) -> list[Attack]:
    """Read the submissions of one kind.

    Raises:
        ValueError: The header of a submission is incomplete or has an unknown form.
    """
    beginning, *parts = ATTACK.split(path.read_text(encoding="utf-8"))
    return [_attack(*part, beginning) for part in zip(parts[::2], parts[1::2], strict=True)]


def title(attack: Attack) -> str:
    """Return the title of the attack's kind."""
    path = FOLDER / f"{attack.name.partition('_')[0]}.py"
    return path.read_text(encoding="utf-8").split('"""')[1].rstrip(".")


def _attack(name: str, text: str, beginning: str) -> Attack:
    fields = dict(FIELD.findall(beginning + text))
    _, *pieces = PIECE.split(text)
    try:
        return Attack(
            name,
            fields["tries"],
            fields["must"],
            *_must(fields["must"]),
            # A name may contain escapes, as in "\u202e".
            student=json.loads(f'"{fields.get("student", STUDENT)}"'),
            assignment=fields.get("assignment", sums.NAME),
            base=fields.get("from", ""),
            cells=tuple(zip(pieces[::2], map(str.strip, pieces[1::2]), strict=True)),
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None


def _must(text: str) -> tuple[float, float, tuple[str, ...], str]:
    """Return the maximum and minimum of points, the states, and the regular expression."""
    match = MUST.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} does not say what must happen")
    at_most, points, states, says = match.groups()
    most = float(points or 0)
    return most, 0 if at_most else most, tuple(states.split(" or ")), says or ""


# --- notebooks ------------------------------------------------------------------------------------


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


def find(notebook: Notebook, cell_id: str) -> Cell:
    """Return the cell with this id."""
    return next(cell for cell in notebook["cells"] if cell.get("id") == cell_id)


def marks(cell: Cell) -> dict[str, Any]:
    """Return nbgrader's metadata of a cell; an empty dict if the cell has none."""
    return cell["metadata"].get("nbgrader", {})


def checks(notebook: Notebook) -> list[Cell]:
    """Return the cells that test answers."""
    return [c for c in notebook["cells"] if c["cell_type"] == "code" and marks(c).get("grade")]


def dump(notebook: Notebook) -> bytes:
    """Return the bytes of the notebook's file."""
    return json.dumps(notebook, indent=1).encode()


def right(release: Notebook) -> Notebook:
    """Return the released notebook with correct answers."""
    notebook = copy.deepcopy(release)
    is_tensors = release["cells"][0]["id"] == tensors.OPENING
    for cell in (tensors if is_tensors else sums).notebook()["cells"]:
        if marks(cell).get("solution"):
            source = re.sub(r"\n *### (BEGIN|END) SOLUTION(?=\n|$)", "", cell["source"])
            find(notebook, cell["id"])["source"] = source
    return notebook


# --- courses and submissions as files -------------------------------------------------------------


def course(folder: Path, name: str, secrets: dict[str, str]) -> Path:
    """Create a course with a released assignment and the submissions of both honest students.

    Args:
        folder: The folder of the new course, which is returned.
        name: The assignment's name.
        secrets: The canaries for "hidden test", "solution", "submission" and "gradebook".
    """
    from nbgrader.api import Gradebook

    from workshop.grading import release

    content = (tensors if name == tensors.NAME else sums).notebook()
    for cell in content["cells"]:
        for mark, place in (("HIDDEN TESTS", "hidden test"), ("SOLUTION", "solution")):
            secret = rf"\1\2# {secrets[place]}\n\2"
            cell["source"] = re.sub(rf"(### BEGIN {mark}\n)( *)", secret, cell["source"])
    sums.write(folder, content, name)
    (folder / "exercises").mkdir(exist_ok=True)
    (folder / release.SETTINGS).write_bytes((ROOT / release.SETTINGS).read_bytes())
    release.release(folder)
    notebook = right(released(folder, name))
    add(notebook, "imports", f"# {secrets['submission']}")
    for student in HONEST:
        _write_files(folder / "submitted" / student / name, {f"{name}.ipynb": dump(notebook)})
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}", "qlora") as book:
        book.update_or_create_student(HONEST[0], last_name=secrets["gradebook"])
    return folder


def released(folder: Path, name: str) -> Notebook:
    """Return the released notebook, in which the source of each cell is one string."""
    path = folder / "exercises" / name / f"{name}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def write(attack: Attack, folder: Path, student: str) -> None:
    """Submit an attack, in the name of a student, to the course in `folder`."""
    files = attack.files(released(folder, attack.assignment))
    _write_files(folder / "submitted" / student / attack.assignment, files)


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
