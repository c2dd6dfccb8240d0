"""Find similar answers of different students with the program compare50.

    autograded/STUDENT/…  ─►  answers/STUDENT/answers.py  ─┐
    exercises/…           ─►  released/answers.py         ─┴►  compare50  ─►  compare/index.html

compare50 (https://cs50.readthedocs.io/projects/compare50) finds sequences of tokens that several
students wrote and that the release doesn't contain, even if variables have different names. Its
page shows these answers side by side. compare50 needs older packages than JupyterLab. So compare50
is installed in a separate environment: the folder .compare50 in the class's folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from course_utils.machine.notebooks import load
from course_utils.machine.validation import CourseError
from workshop.grading.assignments import Assignment, Cell, is_test
from workshop.grading.safe_files import make_folders

# compare50 compares sequences of this many tokens.
TOKENS = 25
# Maximum length of a student's answers, in characters, and maximum number of matches in them. A
# sequence that occurs n times has about n² matches, because every occurrence matches every other.
# The running time of compare50 depends on the number of matches.
MAX_LENGTH, MAX_MATCHES = 100_000, 300_000
MAX_SECONDS = 900


def write_answers(folder: Path, release: Assignment, students: Iterable[str]) -> list[str]:
    """Copy the answers from autograded/, and the released cells, to files in grading/ASSIGNMENT.

    Returns:
        The students whose answers can't be compared, each with the reason.
    """
    target = make_folders(folder / "grading", release.name)
    for name in ("answers", "released"):
        shutil.rmtree(make_folders(target, name))
    _write(target / "released", release.cells)
    given = {cell["source"].strip() for cell in release.cells}
    left_out = []
    for number, student in enumerate(students):
        path = folder / "autograded" / student / release.name / f"{release.name}.ipynb"
        # compare50 writes the names of folders into its page without escaping them. So replace all
        # characters that could be HTML.
        name = re.sub(r"[^\w ,.@+-]", "_", student)[:40]
        try:
            cells = [cell for cell in load(path)["cells"] if not is_test(cell)]
            own = [cell for cell in cells if cell["source"].strip() not in given]
            _check_length("\n".join(cell["source"] for cell in own))
        except CourseError as error:
            left_out.append(f"{student} ({error})")
        else:
            _write(target / "answers" / (name if name == student else f"{name}~{number}"), own)
    return left_out


def _check_length(text: str) -> None:
    """Raise CourseError if comparing these answers with others could take hours."""
    # compare50 treats all names and numbers as the same token. Here, this token is "v".
    tokens = re.findall(r"v|[^\w\s]{1,4}", re.sub(r"\w+", "v", text[:MAX_LENGTH]))
    sequences = Counter(zip(*(tokens[start:] for start in range(TOKENS)), strict=False))
    if len(text) > MAX_LENGTH or sum(n * n for n in sequences.values()) > MAX_MATCHES:
        raise CourseError("the answers are too long or repeat themselves too often")


def _write(folder: Path, cells: Sequence[Cell]) -> None:
    folder.mkdir(parents=True)
    for kind, name in (("code", "answers.py"), ("markdown", "answers.md")):
        text = "\n\n".join(cell["source"].strip() for cell in cells if cell["cell_type"] == kind)
        (folder / name).write_text(f"{text}\n", encoding="utf-8", errors="replace")


def compare(folder: Path, name: str) -> Path:
    """Compare all answers to an assignment; return the path of the page with similar answers.

    Raises:
        CourseError: compare50 is missing, fails, needs too much time, or finds no similar answers.
    """
    target, python = folder / "grading" / name, folder / ".compare50" / "bin" / "python"
    if not python.exists():
        raise CourseError(
            "compare50 is missing: run `python -m venv .compare50` and `.compare50/bin/pip install "
            "compare50` in the folder of the class"
        )
    shutil.rmtree(target / "compare", ignore_errors=True)
    command = ["timeout", f"{MAX_SECONDS}", f"{python.absolute()}", "-m", "compare50"]
    command += [f"./{student}" for student in sorted(os.listdir(target / "answers"))]
    command += ["--distro", "../released", "--passes", "structure", "text", "-o", "../compare"]
    # With a fixed seed, the results are the same in each run. compare50's own command uses this
    # seed.
    environment = os.environ | {"PYTHONHASHSEED": "50", "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        command, cwd=target / "answers", env=environment, stdin=subprocess.DEVNULL
    )
    try:
        failed = process.wait()
    finally:
        # After Ctrl-C, the command `timeout` sends this signal to all processes of compare50.
        process.terminate()
    page = target / "compare" / "index.html"
    if failed or not page.exists():
        raise CourseError(
            "compare50 found nothing, failed, or needed 15 minutes: see its last line"
        )
    return page
