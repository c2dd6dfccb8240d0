"""Generate exercises/ from solutions/ with nbgrader, and read the data that grading needs.

Every file in exercises/ is generated, including the README with the table of points.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from course_utils import __version__
from course_utils.machine.files import write_text
from course_utils.machine.notebooks import load
from course_utils.machine.validation import CourseError
from workshop.grading.assignments import (
    Cell,
    imports_of,
    is_answer,
    read,
    sources,
    tests_of,
    withheld,
)
from workshop.grading.sandbox.bubblewrap import SYSTEM, Folders, python_folders
from workshop.grading.sandbox.limits import Limits
from workshop.grading.spec import ExpectedNames, GradingSpec, digest, sha256

SETTINGS = "nbgrader_config.py"
# The exchange that nbgrader uses if the settings name no other folder.
NBGRADER_EXCHANGE = "/usr/local/share/nbgrader/exchange"
README = Path(__file__).with_suffix(".md")


def release(folder: Path, only: str | None = None, *, gradebook: bool = True) -> list[Path]:
    """Generate the released notebooks and the README in exercises/, and return the notebooks."""
    released = [_generate(folder, path, gradebook) for path in sources(folder, only)]
    write_text(folder / "exercises" / "README.md", _readme(folder))
    return released


def differences(folder: Path, only: str | None = None) -> list[str]:
    """Return one line for each file in exercises/ that differs from what `release` would write.

    Args:
        only: The name of the assignment to compare; default: all assignments and the README.
    """
    with tempfile.TemporaryDirectory() as temporary:
        course = copy_course(folder, Path(temporary), only)
        generated = [path.parent.name for path in release(course, only, gradebook=False)]
        parts = generated if only else [""]
        current, expected = (_files(each / "exercises", parts) for each in (folder, course))
    common = current.keys() & expected.keys()
    reasons = {
        "is missing": expected.keys() - common,
        "is not generated from any file in solutions/": current.keys() - common,
        "differs from what solutions/ generates": {n for n in common if current[n] != expected[n]},
    }
    return [f"exercises/{name} {reason}" for reason in reasons for name in sorted(reasons[reason])]


def copy_course(folder: Path, target: Path, only: str | None = None) -> Path:
    """Copy only the settings and the solutions of a course to `target`, and return `target`."""
    (target / "exercises").mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / SETTINGS, target)
    for path in sources(folder, only):
        shutil.copytree(path.parent, target / "solutions" / path.parent.name)
    return target


def class_folder() -> Path:
    """Return the class's folder: the nearest folder with nbgrader's settings."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / SETTINGS).is_file():
            return folder
    raise CourseError(
        f"neither {here} nor a folder above it contains {SETTINGS}: change into the class's folder"
    )


def settings(folder: Path) -> Any:
    """Return nbgrader's settings of the course in `folder`, as a Config of traitlets."""
    from traitlets.config import PyFileConfigLoader

    return PyFileConfigLoader(SETTINGS, path=str(folder)).load_config()


def read_spec(folder: Path, name: str, limits: Limits) -> GradingSpec:
    """Read the course, and return all data that are needed to grade an assignment.

    Raises:
        CourseError: The solution or the released notebook is missing, or is not a notebook.
    """
    path = folder / "exercises" / name / f"{name}.ipynb"
    if not path.is_file():
        raise CourseError(f"{name} has no release in exercises/: run `course release {name}`")
    solution, released = load(folder / "solutions" / name / f"{name}.ipynb"), load(path)
    imports = {"student": _imports(released["cells"]), "test": _imports(solution["cells"])}
    imports["test"] += "\nfrom workshop.grading import repair"
    other_files = _files(path.parent, [""])
    del other_files[path.name]
    tests, hidden = tests_of(solution), withheld(solution)
    contents = {path: sha256(data) for path, data in other_files.items()}
    return GradingSpec(
        name=name,
        release=json.dumps(released).encode(),
        tests=tests,
        names=ExpectedNames.of(filter(is_answer, released["cells"])),
        withheld=hidden,
        imports=imports,
        folders=sandbox_folders(folder),
        files=other_files,
        limits=limits,
        key=digest(released, tests, hidden, contents, str(limits), __version__),
    )


def _imports(cells: list[Cell]) -> str:
    """Return the import statements of some cells, one per line, without duplicates."""
    sources = (cell["source"] for cell in cells if cell["cell_type"] == "code")
    return "\n".join(
        dict.fromkeys(line for source in sources for line in imports_of(source).split("\n"))
    )


def sandbox_folders(folder: Path) -> Folders:
    """Return the paths that submissions of a class can read, and paths that they must not read.

    The class's course, exchange and gradebook are private. If a folder of the course, such as
    submitted/, is a link, then the target of the link is also private.
    """
    config = settings(folder)
    private = {str(folder), str(config.Exchange.get("root", NBGRADER_EXCHANGE))}
    if url := config.CourseDirectory.get("db_url"):
        from sqlalchemy import make_url

        if database := make_url(str(url)).database:
            # The gradebook's whole folder is private, because SQLite also writes temporary files
            # with private data into this folder.
            private.add(str((folder / database).parent))
    links = filter(Path.is_symlink, (*folder.glob("*"), *folder.glob("solutions/*")))
    # A link such as .venv may lead to Python's environment. The environment isn't private, because
    # submissions need to read it.
    private |= {str(path.resolve()) for path in links} - python_folders()
    read_only = config.Sandbox.get("read_only", SYSTEM)
    return Folders(tuple(read_only), tuple(sorted(private)))


def _readme(folder: Path) -> str:
    """Return the text of exercises/README.md, with a table of all tasks."""
    rows = ["| assignment | task | difficulty | minutes | points |", "|---|---|---|---|---|"]
    assignments = [read(path) for path in sources(folder)]
    for assignment in assignments:
        name, minutes, points = assignment.name, assignment.minutes, str(assignment.points)
        if assignment.bonus_points:
            points += f" + {assignment.bonus_points} bonus"
        link = f"[{assignment.title}]({name}/{name}.ipynb)"
        rows.append(f"| **{link}** | | | **{minutes}** | **{points}** |")
        for task in assignment.tasks:
            points = f"{task.points}{' bonus' * task.bonus}{' by hand' * task.by_hand}"
            title = f"{task.number} {task.title}"
            rows.append(f"| | {title} | {task.stars} | {task.minutes} | {points} |")
    tasks = [task for assignment in assignments for task in assignment.tasks if not task.bonus]
    return README.read_text(encoding="utf-8").format(
        table="\n".join(rows),
        by_hand=sum(task.points for task in tasks if task.by_hand),
        total=sum(task.points for task in tasks),
    )


def _files(folder: Path, parts: list[str]) -> dict[str, bytes]:
    """Return the contents of all files in some subfolders (`parts`), by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for part in parts
        for path in (folder / part).rglob("*")
        if path.is_file() and ".ipynb_checkpoints" not in path.parts
    }


def _generate(folder: Path, source: Path, gradebook: bool) -> Path:
    """Generate the release of one assignment with nbgrader, and return the notebook's path."""
    from nbgrader.converters import GenerateAssignment
    from nbgrader.converters.base import NbGraderException
    from nbgrader.coursedir import CourseDirectory
    from nbgrader.preprocessors import SaveCells

    name, config = source.stem, settings(folder)
    course = CourseDirectory(config=config, assignment_id=name)
    converter = GenerateAssignment(coursedir=course, config=config, force=True)
    converter.log = error_log()
    if not gradebook:
        converter.no_database = True
        converter.preprocessors = [p for p in converter.preprocessors if p is not SaveCells]
    try:
        converter.start()
    except (NbGraderException, SystemExit) as error:
        raise CourseError(f"nbgrader can't release {name}: {error}") from None
    return folder / "exercises" / name / f"{name}.ipynb"


def error_log() -> logging.Logger:
    """Return a logger for nbgrader's converters that shows errors but no warnings."""
    log = logging.getLogger("workshop.grading")
    log.setLevel(logging.ERROR)
    return log
