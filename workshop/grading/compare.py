"""Find answers that are alike, with compare50, which shows them side by side.

    autograded/STUDENT/…  ─►  answers/STUDENT/TASK.py  ─┐
    exercises/…           ─►  released/TASK.py         ─┴►  compare50  ─►  compare/index.html

compare50 (https://cs50.readthedocs.io/projects/compare50) finds sequences of tokens that students
share and that the release doesn't contain, also if variables have other names. It needs older
packages than JupyterLab, so it has an environment of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from course_utils.machine.validation import CourseError
from workshop.grading.assignments import Assignment, Cell, grade_id, is_answer, is_graded
from workshop.grading.read import describe
from workshop.grading.safe_files import make_folders, read_bytes
from workshop.grading.spec import MAX_NOTEBOOK

# compare50 compares sequences of this many tokens.
TOKENS = 25
# Maximum length of a student's answers, in characters. Each two occurrences of a sequence are a
# match, so the time grows with the square of the occurrences: this sum is limited, too.
MAX_LENGTH, MAX_MATCHES = 100_000, 300_000
MAX_SECONDS = 900


def write_answers(folder: Path, release: Assignment, students: Iterable[str]) -> list[str]:
    """Write the release, and what each student wrote, to files in grading/ASSIGNMENT.

    The answers come from autograded/, which contains the repaired notebooks.

    Returns:
        The students whose answers can't be compared, each with the reason.
    """
    target = make_folders(folder / "grading", release.name)
    for name in ("answers", "released"):
        shutil.rmtree(make_folders(target, name))
    _write(_by_file(release.cells, release), target, "released")
    left_out = []
    for number, student in enumerate(students):
        path = folder / "autograded" / student / release.name / f"{release.name}.ipynb"
        # compare50 doesn't escape the names of folders.
        name = re.sub(r"[^\w ,.@+-]", "_", student)[:40]
        try:
            cells = json.loads(read_bytes(path, MAX_NOTEBOOK))["cells"]
            files = _by_file((cell for cell in cells if not _is_given(cell, release)), release)
            _check_length("".join(files.values()))
        except (OSError, ValueError, LookupError, CourseError) as error:
            left_out.append(f"{student} ({describe(error, folder)})")
        else:
            _write(files, target, "answers", name if name == student else f"{name}~{number}")
    return left_out


def _is_given(cell: Cell, release: Assignment) -> bool:
    """Return whether a cell is a test, or is as in the release."""
    if is_graded(cell) and not is_answer(cell):
        return True
    return any(_source(cell) == _source(given) for given in release.cells)


def _source(cell: Cell) -> str:
    return "".join(cell["source"]).strip()


def _by_file(cells: Iterable[Cell], release: Assignment) -> dict[str, str]:
    """Return the sources of cells, by the name of the file into which they are written."""
    tasks = {task.id for task in release.tasks}
    files: dict[str, str] = defaultdict(str)
    for cell in cells:
        name = cell_id if (cell_id := grade_id(cell)) in tasks else "own-cells"
        suffix = ".py" if cell["cell_type"] == "code" else ".md"
        files[name + suffix] += f"{_source(cell)}\n\n"
    return files


def _check_length(text: str) -> None:
    """Raise CourseError if comparing these answers with others could take hours."""
    # In compare50, all names and numbers are the same token.
    tokens = re.findall(r"v|[^\w\s]{1,4}", re.sub(r"\w+", "v", text))
    sequences = Counter(zip(*(tokens[start:] for start in range(TOKENS)), strict=False))
    if len(text) > MAX_LENGTH or sum(n * n for n in sequences.values()) > MAX_MATCHES:
        raise CourseError("the answers are too long or repeat themselves too often")


def _write(files: dict[str, str], root: Path, *names: str) -> None:
    folder = make_folders(root, *names)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", errors="replace")


def compare(folder: Path, name: str) -> Path:
    """Compare the answers to an assignment, and return the page that shows what is alike.

    Raises:
        CourseError: compare50 is missing or fails, or no answers are alike.
    """
    target = folder / "grading" / name
    path = f"{folder / '.compare50/bin'}:{os.environ.get('PATH', os.defpath)}"
    program = shutil.which("compare50", path=path)
    if not program:
        raise CourseError(
            "compare50 is missing: run `python -m venv .compare50` and `.compare50/bin/pip install "
            "compare50` in the folder of the class"
        )
    shutil.rmtree(target / "compare", ignore_errors=True)
    answers = [f"./{student}" for student in sorted(os.listdir(target / "answers"))]
    options = ["--distro", "../released", "--passes", "structure", "text", "--output", "../compare"]
    # The program is a shell script that runs the first Python on the path.
    path = f"{os.path.dirname(os.path.realpath(program))}:{path}"
    finished = subprocess.run(
        ["timeout", str(MAX_SECONDS), program, *answers, *options],
        cwd=target / "answers",
        env=os.environ | {"PATH": path, "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
    )
    page = target / "compare" / "index.html"
    if finished.returncode or not page.exists():
        raise CourseError(
            "compare50 found nothing, failed, or needed 15 minutes: see its last line"
        )
    return page
