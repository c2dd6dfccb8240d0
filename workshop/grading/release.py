"""Generate exercises/ from solutions/ with nbgrader, and find exercises that are out of date.

Every file in exercises/ is generated, including the README with the table of points.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from course_utils.machine.files import write_text
from course_utils.machine.validation import CourseError
from workshop.grading.assignments import Assignment, read, sources

SETTINGS = "nbgrader_config.py"
# The exchange that nbgrader uses if the settings name no other folder.
NBGRADER_EXCHANGE = "/usr/local/share/nbgrader/exchange"
INTRODUCTION = """\
These are the assignments as students get them. Each one has the number of its lecture. Open a
notebook and write your answers into it. If you are an instructor, do not edit the tasks here:
`make release` generates all files in this folder from the folder `solutions/` of the repository."""
README = """\
# Exercises

{introduction}

{table}

Most points are given by checks. You can run some of the checks yourself. Grading adds more checks,
which call the same functions with other inputs. A person grades the other tasks, which are worth
{by_hand} of the {total} points. Tasks with bonus points are extra: the minutes and points of an
assignment don't include them.
"""


def release(folder: Path, only: str | None = None, *, gradebook: bool = True) -> list[Path]:
    """Generate the released notebooks and the README in exercises/, and return the notebooks."""
    released = [_generate(folder, path, gradebook) for path in sources(folder, only)]
    write_text(folder / "exercises" / "README.md", readme(folder))
    return released


def differences(folder: Path, only: str | None = None) -> list[str]:
    """Return one line for each file in exercises/ that differs from what `release` would write.

    Args:
        only: The name of an assignment, whose files alone are compared; default: all files.
    """
    with tempfile.TemporaryDirectory() as temporary:
        course = copy_course(folder, Path(temporary), only)
        release(course, gradebook=False)
        current, generated = (_files(each / "exercises", only) for each in (folder, course))
    missing = sorted(generated.keys() - current.keys())
    unknown = sorted(current.keys() - generated.keys())
    common = sorted(generated.keys() & current.keys())
    changed = [name for name in common if generated[name] != current[name]]
    return [
        *(f"exercises/{name} is missing" for name in missing),
        *(f"exercises/{name} is not generated from any file in solutions/" for name in unknown),
        *(f"exercises/{name} differs from what solutions/ generates" for name in changed),
    ]


def copy_course(folder: Path, target: Path, only: str | None = None) -> Path:
    """Copy the settings and the solutions of a course to `target`, and return `target`.

    The copy contains no submissions and no gradebook.
    """
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


def private_paths(folder: Path) -> tuple[str, ...]:
    """Return the paths that no submission may read: the course, its exchange, and its data."""
    config = settings(folder)
    paths = [str(folder), config.Exchange.get("root", NBGRADER_EXCHANGE)]
    if url := config.CourseDirectory.get("db_url"):
        from sqlalchemy import make_url

        if database := make_url(str(url)).database:
            endings = ("", "-journal", "-wal", "-shm")
            paths += [f"{folder / database}{ending}" for ending in endings]
    # A folder of the course, such as submitted/, may be a link to another disk. A link such
    # as .venv leads to a Python environment, not to the class's data.
    python = [Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)]
    for path in (*folder.glob("*"), *folder.glob("solutions/*")):
        target = path.resolve()
        if path.is_symlink() and not any(target.is_relative_to(prefix) for prefix in python):
            paths.append(str(target))
    return tuple(sorted(paths))


def points_table(assignments: list[Assignment]) -> str:
    """Return a Markdown table of all tasks with their difficulty, minutes and points."""
    rows = ["| assignment | task | difficulty | minutes | points |", "|---|---|---|---|---|"]
    for assignment in assignments:
        link = f"[{assignment.title}]({assignment.name}/{assignment.name}.ipynb)"
        bonus = f" + {assignment.bonus_points} bonus" if assignment.bonus_points else ""
        points = f"{assignment.points}{bonus}"
        rows.append(f"| **{link}** | | | **{assignment.minutes}** | **{points}** |")
        for task in assignment.tasks:
            bonus, hand = " bonus" * task.bonus, " by hand" * task.by_hand
            points = f"{task.points}{bonus}{hand}"
            rows.append(
                f"| | {task.number} {task.title} | {task.stars} | {task.minutes} | {points} |"
            )
    return "\n".join(rows)


def readme(folder: Path, introduction: str = INTRODUCTION) -> str:
    """Return the text of exercises/README.md."""
    assignments = [read(path) for path in sources(folder)]
    tasks = [task for assignment in assignments for task in assignment.tasks if not task.bonus]
    return README.format(
        introduction=introduction,
        table=points_table(assignments),
        by_hand=sum(task.points for task in tasks if task.by_hand),
        total=sum(task.points for task in tasks),
    )


def _files(folder: Path, only: str | None = None) -> dict[str, bytes]:
    """Return the contents of all files below a folder, or below one folder in it, by path.

    Jupyter's checkpoints (`.ipynb_checkpoints`) are left out.
    """
    paths = (path for path in (folder / (only or "")).rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if ".ipynb_checkpoints" not in path.parts
    }


def _generate(folder: Path, source: Path, gradebook: bool) -> Path:
    """Generate the release of one assignment with nbgrader, and return the notebook's path."""
    try:
        from nbgrader.converters import GenerateAssignment
        from nbgrader.converters.base import NbGraderException
        from nbgrader.coursedir import CourseDirectory
        from nbgrader.preprocessors import SaveCells
    except ImportError:
        raise CourseError("nbgrader is missing: run `pip install nbgrader`") from None
    name, config = source.stem, settings(folder)
    course = CourseDirectory(config=config, assignment_id=name)
    converter = GenerateAssignment(coursedir=course, config=config, force=True)
    converter.log = error_log()
    if not gradebook:
        converter.no_database = True
        converter.preprocessors = [
            step for step in converter.preprocessors if step is not SaveCells
        ]
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
