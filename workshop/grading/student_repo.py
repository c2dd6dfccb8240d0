"""Write the students' version of the course to a folder, a git work tree or a zip file.

    solutions/ ─► exercises/ ─┐
    lectures/, course_utils/ ─┴─► temporary copy ─► search for solutions and tests ─► PATH

Files that are not in git are left out, because they may be private notes. The temporary copy is
searched for solutions and hidden tests before anything is written to PATH. If a file contains a
solution or a hidden test, nothing is written.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.machine import notebooks
from course_utils.machine.validation import CourseError
from workshop.grading import assignments, release
from workshop.publishing import addresses, course_map, notebook_check

FOLDERS = ("LICENSES", "binder", "course_utils", "lectures", "workshop")
# Each file below these folders may contain one identifying line.
PACKAGES = ("course_utils/", "workshop/")
FILES = (
    # Binder needs this file and the folder binder/.
    ".config/pip/pip.conf",
    ".gitattributes",
    ".gitignore",
    "CITATION.cff",
    "LICENSE",
    "Makefile",
    "constraints.txt",
    # Lectures link to these pages.
    "docs/export-and-serve.md",
    "docs/glossary.md",
    "docs/your-own-data.md",
    "environment.yml",
    # JupyterLab's Validate button and Assignment List need the two files nbgrader_config.py.
    "my_assignments/nbgrader_config.py",
    "nbgrader_config.py",
    "pyproject.toml",
)
# The files that are copied from a course without git. Without git, private files can't be
# recognized, so only files that match these patterns are copied.
WITHOUT_GIT = (
    "LICENSES/*",
    "binder/**/*",
    "course_utils/**/*.py",
    "course_utils/data/**/*",
    "lectures/[0-9][0-9]_*.ipynb",
    *(f"workshop/**/*.{suffix}" for suffix in ("css", "html", "j2", "mjs", "py")),
)
# The Makefile's commands that students need.
COMMANDS = ("setup", "lab", "run", "check", "fetch-model", "finetune", "serve")
MAKEFILE = """\
# `make lab` opens the course, and `make help` lists all commands.
# Each command first installs what it needs. If everything is installed, that takes milliseconds.
# Arguments of a command are given as ARGS: make lab ARGS="--no-browser". ONLY=07 means --only 07.\
"""
EXERCISES = """\
These are the assignments. Each one has the number of its lecture. Open a notebook and write your
answers into it."""

REGION = re.compile(r"### BEGIN (SOLUTION|HIDDEN TESTS)\n(.*?)(?:### END \1|\Z)", re.S)
MARKER = re.compile(r"^\s*### (?:BEGIN|END) (?:SOLUTION|HIDDEN TESTS)", re.M)
# A line identifies a solution or a hidden test only if it has more than this number of characters.
SHORT_LINE = 25
# Lines that begin with one of these words are too common to identify a solution.
COMMON_BEGINNINGS = ("import ", "from ", "for ")
PICTURES = {".gif", ".jpeg", ".jpg", ".png", ".webp"}

README = """\
# The QLoRA course

In this course you load a real pretrained language model in 4 bits, account for every byte of it,
and fine-tune it with QLoRA. Two CPU cores and a few minutes are enough. You need neither a GPU nor
an account.

## Start

You need Python 3.11, 3.12 or 3.13, `make`, 2 GB of free memory and 4 GB of free disk space (12 GB
if PyTorch is installed with CUDA). Then run:

```bash
make lab
```

This command installs the course into `.venv`, downloads the model and opens the first lecture in
JupyterLab. The first time takes some minutes and needs a network. After that, the command takes
seconds and needs no network.

- **On Windows, or without make:** run `python course_utils/bootstrap.py lab`.
- **With conda:** run `conda env create -f environment.yml`, `conda activate qlora-course` and
  `course lab`.
- **If something is wrong:** run `make check`. It prints a table that describes your machine and
  names a remedy for each problem.

## Lectures

{lectures}

Read a question, **predict the answer**, run the cells below it, and compare. The command
`make run ONLY=07` executes a lecture without a browser and writes it as a page to
`build/lectures/`.

## Exercises

[exercises/](exercises/README.md) lists the tasks of each assignment with their minutes and points.
Write your answers into the cells that contain `YOUR CODE HERE` or `YOUR ANSWER HERE`. The cells
below an answer check it. If a check fails, its message names the input, your result, the expected
result and the likely mistake. The button *Validate* in the notebook's toolbar runs all checks in a
new kernel. Do not change the checks or the comments that begin with `# grade_id:`.

Submit an exercise in the way that your instructor has chosen:

- **In JupyterLab,** if your class shares a machine or a hub: open *Nbgrader → Assignment List* and
  press *Fetch*. Work on the notebook that appears under *Downloaded assignments*, then press
  *Submit*. You can submit several times.
- **As a file:** first run the notebook from top to bottom (*Kernel → Restart Kernel and Run All
  Cells*) and save it. Name the file `STUDENT_03_lora.ipynb`, with your name in place of STUDENT.

If you have deleted or changed a check by accident, run `.venv/bin/course repair NOTEBOOK`. The
command writes a repaired copy into the folder of the notebook. The copy contains your answers.

## In a browser, without installing anything

- **Google Colab:** open a notebook of `lectures/` or `exercises/` with the badge at its top. If
  there is no badge, upload the notebook. The first cell installs the course. If the cell can't find
  out where to get the course from, it explains how to enter the address of this repository.
- **Binder:** enter the address of this repository at [mybinder.org](https://mybinder.org). Download
  the files that you want to keep, because Binder deletes all files when a session ends.

## Licences

The code has the [MIT licence](LICENSE). Text and notebooks have the licence
[CC BY 4.0](LICENSES/CC-BY-4.0.txt). The data has the licence [CC0](LICENSES/CC0-1.0.txt), and
[all of it is invented](course_utils/data/DATASHEET.md). The model's authors have published it under
the licence Apache-2.0.
"""


# --- writing the students' version ----------------------------------------------------------------


def write(folder: Path, target: Path, *, gradebook: bool = True) -> list[str]:
    """Release all assignments of a course, write the students' version, and list omitted files.

    Args:
        target: A new or empty folder, a new path that ends in .zip, or the root of a git work tree
            without uncommitted changes. In a work tree, the folders that a release fills are
            replaced. All other files are kept, unless a new file has the same path.

    Returns:
        The relative paths of the files that were left out because they are not in git.

    Raises:
        CourseError: `target` is unsuitable or can't be written, a solution isn't in git, or the
            students' version would contain a solution or a hidden test. `target` is then unchanged,
            unless the error occurred while `target` was being written.
    """
    existing = _files_in_target(target)
    tracked, untracked = _tracked_and_untracked(folder)
    _check_committed(folder, tracked)
    release.release(folder, gradebook=gradebook)
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / (target.stem or "course")
        copied = _fill(tree, folder, tracked)
        files = {name: tree / name for name in _names(tree)}
        outdated = {name for name in existing - files.keys() if _is_released(name)}
        kept = {name: target / name for name in existing - outdated}
        if problems := leaks(folder, kept | files):
            more = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
            raise CourseError(f"nothing was written, because {problems[0]}{more}")
        _write_tree(tree, target, outdated)
    return [name for name in untracked if name not in copied]


def _files_in_target(target: Path) -> set[str]:
    """Return the relative paths of the files that git tracks in `target`."""
    if target.suffix == ".zip":
        if target.exists():
            raise CourseError(f"{target} already exists: remove it, or choose another name")
        return set()
    if (target / "solutions").exists():
        raise CourseError(f"{target} contains solutions/, which students must not get")
    if (target / ".git").exists():
        changes = _git(target, "status", "--porcelain")
        if changes is None:
            raise CourseError(f"git can't read {target}")
        if changes:
            raise CourseError(f"{target} has uncommitted changes: commit or remove them")
        return set(_git_files(target))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CourseError(
            f"{target} exists, but is neither empty nor a git work tree: choose another folder"
        )
    return set()


def _write_tree(tree: Path, target: Path, outdated: set[str]) -> None:
    """Copy a finished tree to `target`, as a folder or as a zip file."""
    try:
        if target.suffix == ".zip":
            target.parent.mkdir(parents=True, exist_ok=True)
            archive = shutil.make_archive(str(tree), "zip", tree.parent, tree.name)
            shutil.move(archive, target)
            return
        for name in outdated:
            (target / name).unlink(missing_ok=True)
        shutil.copytree(tree, target, dirs_exist_ok=True)
    except OSError as error:
        raise CourseError(f"{target} can't be written: {error.strerror}") from error


def _is_released(name: str) -> bool:
    """Return whether a relative path is in a folder that a release fills."""
    return name.partition("/")[0] in (*FOLDERS, "exercises")


# --- files that git tracks ------------------------------------------------------------------------


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command in a folder; None if git fails or is not installed."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _git_files(folder: Path, *options: str) -> list[str]:
    """Return the relative paths that `git ls-files` lists in a folder; empty if git fails."""
    return [name for name in (_git(folder, "ls-files", "-z", *options) or "").split("\0") if name]


def _tracked_and_untracked(folder: Path) -> tuple[set[str] | None, list[str]]:
    """Return the relative paths of the files that git tracks, and of untracked files.

    The first value is None if git doesn't track the course. Untracked files are listed only in
    the folders that the students' version is made from, and without the files that git ignores.
    """
    tracked = set(_git_files(folder))
    if "pyproject.toml" not in tracked:
        return None, []
    folders = (*FOLDERS, "exercises", "solutions")
    return tracked, _git_files(folder, "--others", "--exclude-standard", "--", *folders)


def _check_committed(folder: Path, tracked: set[str] | None) -> None:
    """Raise CourseError for an assignment that isn't in git, because it may be a draft."""
    for path in assignments.sources(folder):
        name = path.relative_to(folder).as_posix()
        if tracked is not None and name not in tracked:
            raise CourseError(f"{name} is not in git: commit it, or move it out of solutions/")


# --- making the students' version -----------------------------------------------------------------


def _fill(tree: Path, folder: Path, tracked: set[str] | None) -> set[str]:
    """Fill `tree` with the students' version; return the relative paths of the copied files."""
    copied = _files_to_copy(folder, tracked)
    for name in copied:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / name, tree / name)
    lectures = course_map.course_map(tree, start=tree)
    texts = {
        "Makefile": _makefile((tree / "Makefile").read_text(encoding="utf-8")),
        "README.md": README.format(lectures=lectures),
        "exercises/README.md": release.readme(folder, EXERCISES),
    }
    for name, text in texts.items():
        (tree / name).write_text(text, encoding="utf-8", newline="\n")
    # The students' repository contains both the exercises and the lectures, so all badges link to
    # that repository.
    addresses.write(tree, addresses.read(folder).students)
    notebook_check.fix_course(tree)
    return copied


def _files_to_copy(folder: Path, tracked: set[str] | None) -> set[str]:
    """Return the relative paths of the files to copy."""
    released = {f"exercises/{p.stem}/{p.name}" for p in assignments.sources(folder)}
    if tracked is None:
        paths = {path for pattern in WITHOUT_GIT for path in folder.glob(pattern)}
        names = {path.relative_to(folder).as_posix() for path in paths if path.is_file()}
    else:
        names = {name for name in tracked if _is_released(name)}
        released |= {
            name.replace("solutions/", "exercises/", 1)
            for name in tracked
            if name.startswith("solutions/") and name.count("/") > 1
        }
    found = {name for name in {*FILES, *names, *released} if (folder / name).is_file()}
    return {name for name in found if not name.startswith("workshop/benchmarks/")}


def _names(tree: Path) -> list[str]:
    return sorted(p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file())


def _makefile(text: str) -> str:
    """Return the Makefile's text with only the commands that students need."""
    commands = f"COMMANDS = {' '.join(COMMANDS)}"
    text = re.sub(r"^COMMANDS =(?:.*\\\n)*.*", commands, text, flags=re.M)
    _, *rest = text.split("\n\n")
    return "\n\n".join([MAKEFILE, *rest])


# --- searching for solutions and hidden tests -----------------------------------------------------


@dataclass(frozen=True)
class Secret:
    """The lines that identify a solution or a hidden test.

    Attributes:
        lines: The identifying lines. None of them occurs in anything that students may see.
    """

    description: str
    lines: tuple[str, ...]


def secrets(folder: Path) -> list[Secret]:
    """Return the identifying lines of every solution and hidden test of the course in `folder`.

    A line identifies a solution or a hidden test if it has more than `SHORT_LINE` characters and is
    neither an import nor the head of a loop. The line must also occur neither in the visible parts
    of the assignments nor in the modules that the assignment withholds. Those modules contain
    reference implementations, and students get them as part of course_utils.
    """
    loaded = {path: notebooks.load(path) for path in assignments.sources(folder)}
    cells = [cell for notebook in loaded.values() for cell in notebook["cells"]]
    visible = _normalized("\n".join(REGION.sub("", cell["source"]) for cell in cells))
    found = []
    for path, notebook in loaded.items():
        public = f"{visible} {_source_of_modules(folder, assignments.withheld(notebook))}"
        for cell in notebook["cells"]:
            for kind, region in REGION.findall(cell["source"]):
                what = "the solution" if kind == "SOLUTION" else "a hidden test"
                lines = tuple(line for line in _distinctive_lines(region) if line not in public)
                found.append(Secret(f"{what} of {cell.get('id')} in {path.name}", lines))
    return found


def leaks(folder: Path, files: dict[str, Path]) -> list[str]:
    """Return one clause for each reason why `files` must not be given to students.

    A reason is a solution, a hidden test, or a file that can't be searched.
    """
    known = secrets(folder)
    return [
        f"{place} {problem}"
        for name, path in sorted(files.items())
        for place, text in _parts_of_file(name, path)
        for problem in _leaks_in_text(name, text, known)
    ]


def _leaks_in_text(name: str, text: str | None, known: list[Secret]) -> Iterator[str]:
    """Yield why one part of a file must not be given to students.

    A file of a package may contain one identifying line of a solution or a hidden test. All
    other files must contain none.
    """
    if text is None:
        yield "is not text, a picture or safetensors, so it can't be searched for solutions"
        return
    if marker := MARKER.search(text):
        yield f"contains the line {marker[0].strip()!r}"
    normalized, allowed = _normalized(text), int(name.startswith(PACKAGES))
    for secret in known:
        if sum(line in normalized for line in secret.lines) > allowed:
            yield f"contains {secret.description}"


def _parts_of_file(name: str, path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield the parts of a file, each with its place in the file and its text.

    A notebook has one part for each cell and one part for the rest of its JSON. Any other text file
    is a single part. A picture has no parts. The text of a safetensors file is its names and
    metadata. For other files that aren't text, the text is None.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        if path.suffix == ".safetensors":
            yield name, _text_in_safetensors(path)
        elif path.suffix.lower() not in PICTURES:
            yield name, None
        return
    try:
        data = json.loads(text)
    except ValueError:
        # In an HTML page, tags and character references may interrupt a line of code.
        yield name, f"{text}\n{html.unescape(re.sub('<[^>]*>', '', text))}"
        return
    cells = data.pop("cells", None) if isinstance(data, dict) else None
    for cell in cells if isinstance(cells, list) else ():
        place = f"cell {cell.get('id')} of {name}" if isinstance(cell, dict) else name
        yield place, _text_in_json(cell)
    yield name, _text_in_json(data)


def _text_in_safetensors(path: Path) -> str | None:
    """Return the names and the metadata in a safetensors file; None if the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as tensors:
            return "\n".join([*tensors.keys(), *(tensors.metadata() or {}).values()])
    except SafetensorError:
        return None


def _text_in_json(value: Any) -> str:
    """Return all text in a JSON value; the strings of a list are joined, as in notebooks."""
    if isinstance(value, dict):
        return "\n".join(f"{key}\n{_text_in_json(part)}" for key, part in value.items())
    if isinstance(value, list):
        separator = "" if all(isinstance(part, str) for part in value) else "\n"
        return separator.join(map(_text_in_json, value))
    return str(value)


def _distinctive_lines(region: str) -> list[str]:
    """Return the lines that may identify a piece of code or text, with normalized spaces."""
    lines = map(_normalized, region.splitlines())
    long = [line for line in lines if len(line) > SHORT_LINE]
    return [line for line in long if not line.startswith(COMMON_BEGINNINGS)]


def _source_of_modules(folder: Path, names: tuple[str, ...]) -> str:
    bases = [folder / name.replace(".", "/") for name in names]
    files = [path for base in bases for path in (base.with_suffix(".py"), *base.rglob("*.py"))]
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    return _normalized("\n".join(texts))


def _normalized(text: str) -> str:
    return " ".join(text.split())
