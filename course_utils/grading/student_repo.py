"""Write the students' version of the course to a folder, a git work tree or a zip file.

    solutions/ ─► exercises/ ─┐
    lectures/, course_utils/ ─┴─► a copy aside ─► no solution, no hidden test in it? ─► PATH

Files that are not in git are left out, because they may be private notes. The copy is searched for
solutions and hidden tests before anything is written to PATH. If a file contains a solution or a
hidden test, nothing is written.
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

from course_utils import notebooks
from course_utils.grading import assignments, release
from course_utils.publishing import addresses, badges, course_map
from course_utils.publishing.addresses import Addresses
from course_utils.validation import CourseError

FOLDERS = ("LICENSES", "binder", "course_utils", "lectures")
FILES = (
    # Binder needs this file and the folder binder/.
    ".config/pip/pip.conf",
    ".gitattributes",
    ".gitignore",
    "CITATION.cff",
    "LICENSE",
    "Makefile",
    "constraints.txt",
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
    "binder/*",
    "course_utils/**/*.py",
    "course_utils/data/*",
    "course_utils/grading/results/*.j2",
    "lectures/[0-9][0-9]_*.ipynb",
)
# The Makefile's commands that students need.
COMMANDS = ("setup", "lab", "run", "check", "fetch-model", "clean")
MAKEFILE = """\
# `make lab` opens the course; all else: `make help`.
# Every target sets up what it needs first; after the first time that takes milliseconds."""
EXERCISES = "The assignments, numbered as the lectures: open one, and work in it."

REGION = re.compile(r"### BEGIN (SOLUTION|HIDDEN TESTS)\n(.*?)(?:### END \1|\Z)", re.S)
MARK = re.compile(r"^\s*### (?:BEGIN|END) (?:SOLUTION|HIDDEN TESTS)", re.M)
# A line identifies a solution or a hidden test only if it has more than this number of characters.
TELLING = 25
# Lines that begin with one of these words are too common to identify a solution.
EVERYDAY = ("import ", "from ", "for ")
PICTURES = {".gif", ".jpeg", ".jpg", ".png", ".webp"}

README = """\
# The QLoRA course

<!-- badges: begin -->
<!-- badges: end -->

You load a real pretrained language model in 4 bits, account for every byte of it, and fine-tune it
with QLoRA on two CPU cores, in minutes, with no GPU and no account.

## Start

With Python 3.11, 3.12 or 3.13, `make`, 2 GB of free memory and 4 GB of disk (12 GB where PyTorch
comes with CUDA):

```bash
make lab
```

installs the course into `.venv`, fetches the model and opens JupyterLab on the first lecture. The
first time takes some minutes, the next ones a moment, and then no network is needed. On Windows, or
without make: `python course_utils/bootstrap.py lab`. With conda: `conda env create -f
environment.yml && conda activate qlora-course && course lab`.

Something is wrong? `make check` prints a table of your machine with one remedy for each fault.

## Lectures

{lectures}

Read a question, **write down what you expect**, run the cell, compare. `make run ONLY=07` executes
a lecture without a browser and writes it as a page to `build/lectures/`.

## Exercises

[exercises/](exercises/README.md) lists the tasks of each assignment with their minutes and points.
Write your answers where a cell says `YOUR CODE HERE` or `YOUR ANSWER HERE`. The checks below an
answer say which input they used, what came, what was expected, and the likely mistake. *Validate*
in the notebook's toolbar runs all of them in a fresh kernel. Leave the checks and the comments
`# grade_id:` as they are.

Hand in as your instructor says:

- **in JupyterLab,** where your class shares a machine or a hub: menu *Nbgrader → Assignment List*,
  Fetch, work in what appears under *Downloaded assignments*, Submit. You can submit again;
- **as a file,** `STUDENT_03_lora.ipynb` with your name in place of STUDENT. Run it once from top to
  bottom before (*Kernel → Restart Kernel and Run All Cells*).

Have you deleted or changed a check by accident? `course repair NOTEBOOK` (in `.venv/bin/`) writes a
mended copy beside it, with your answers.

## In a browser, without installing anything

- **Google Colab:** a notebook of `lectures/` or `exercises/` opens by the badge at its top; where
  it has none, upload it. Its first cell installs the course; if it doesn't know from where, it says
  how to name the address of this repository.
- **Binder:** give [mybinder.org](https://mybinder.org) the address of this repository. Download
  what you want to keep: a session is thrown away when it ends.

## Licences

Code: [MIT](LICENSE). Text and notebooks: [CC BY 4.0](LICENSES/CC-BY-4.0.txt). Data:
[CC0](LICENSES/CC0-1.0.txt), [all of it invented](course_utils/data/DATASHEET.md). The model:
Apache-2.0, by its authors.
"""


# --- writing the students' version ----------------------------------------------------------------


def write(folder: Path, target: Path, *, gradebook: bool = True) -> list[str]:
    """Release all assignments of a course, write the students' version, and list omitted files.

    Args:
        folder: The course's folder.
        target: A new or empty folder, a new path that ends in .zip, or the root of a git work tree
            without uncommitted changes. In a work tree, the folders that a release fills are
            replaced. All other files are kept, unless a new file has the same path.
        gradebook: Whether to add the assignments to nbgrader's gradebook.

    Returns:
        The relative paths of the files that were left out because they are not in git.

    Raises:
        CourseError: `target` is unsuitable or can't be written, a solution isn't in git, or the
            students' version would contain a solution or a hidden test. `target` is then unchanged,
            unless the error occurred while `target` was being written.
    """
    held = _refuse_unfit(target)
    tracked, others = _known_to_git(folder)
    _refuse_drafts(folder, tracked)
    release.release(folder, gradebook=gradebook)
    with tempfile.TemporaryDirectory() as aside:
        tree = Path(aside) / (target.stem or "course")
        chosen = _fill(tree, folder, tracked)
        files = {name: tree / name for name in _names(tree)}
        stale = {name for name in held - files.keys() if _is_ours(name)}
        staying = {name: target / name for name in held - stale}
        if found := leaks(folder, staying | files):
            more = f", and {len(found) - 1} more like it" if len(found) > 1 else ""
            raise CourseError(f"nothing was written, for {found[0]}{more}")
        _deliver(tree, target, stale)
    return [name for name in others if name not in chosen]


def _refuse_unfit(target: Path) -> set[str]:
    """Return the relative paths of the files that git tracks in `target`.

    Raises:
        CourseError: `target` is unsuitable, for example because it contains other files.
    """
    if target.suffix == ".zip":
        if target.exists():
            raise CourseError(f"{target} is there already: remove it, or choose another name")
        return set()
    if (target / "solutions").exists():
        raise CourseError(f"{target} holds solutions/: students must not be given that folder")
    if (target / ".git").exists():
        changes = _git(target, "status", "--porcelain")
        if changes is None:
            raise CourseError(f"{target} can't be read by git")
        if changes:
            raise CourseError(f"{target} has changes that aren't committed: commit or remove them")
        return set(_listed(target))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CourseError(
            f"{target} is neither new nor empty, and no git work tree: choose another folder"
        )
    return set()


def _deliver(tree: Path, target: Path, stale: set[str]) -> None:
    """Copy a finished tree to `target`, as a folder or as a zip file.

    Args:
        tree: The temporary folder with the students' version.
        target: The path to write.
        stale: The relative paths of files in `target` that are removed first.
    """
    try:
        if target.suffix == ".zip":
            target.parent.mkdir(parents=True, exist_ok=True)
            made = shutil.make_archive(str(tree), "zip", tree.parent, tree.name)
            shutil.move(made, target)
            return
        for name in stale:
            (target / name).unlink(missing_ok=True)
        shutil.copytree(tree, target, dirs_exist_ok=True)
    except OSError as fault:
        raise CourseError(f"{target} can't be written: {fault.strerror}") from fault


def _is_ours(name: str) -> bool:
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


def _listed(folder: Path, *options: str) -> list[str]:
    """Return the relative paths that `git ls-files` lists in a folder; empty if git fails."""
    return [name for name in (_git(folder, "ls-files", "-z", *options) or "").split("\0") if name]


def _known_to_git(folder: Path) -> tuple[set[str] | None, list[str]]:
    """Return the relative paths of the files that git tracks, and of untracked files.

    The first value is None if git doesn't track the course. Untracked files are listed only for
    the folders that the students' version is made from, and without the files that git ignores.
    """
    tracked = set(_listed(folder))
    if "pyproject.toml" not in tracked:
        return None, []
    places = (*FOLDERS, "exercises", "solutions")
    return tracked, _listed(folder, "--others", "--exclude-standard", "--", *places)


def _refuse_drafts(folder: Path, tracked: set[str] | None) -> None:
    """Raise CourseError for an assignment that isn't in git, because it may be a draft."""
    for path in assignments.sources(folder):
        name = path.relative_to(folder).as_posix()
        if tracked is not None and name not in tracked:
            raise CourseError(f"{name} isn't in git: commit it, or move it out of solutions/")


# --- making the students' version -----------------------------------------------------------------


def _fill(tree: Path, folder: Path, tracked: set[str] | None) -> set[str]:
    """Fill `tree` with the students' version; return the relative paths of the copied files."""
    chosen = _chosen(folder, tracked)
    for name in chosen:
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
    students = addresses.read(folder).students
    badges.renew(tree, Addresses(repository=students, students=students))
    return chosen


def _chosen(folder: Path, tracked: set[str] | None) -> set[str]:
    """Return the relative paths of the files to copy.

    If the course is in git, the files are those in `FILES`, the tracked files in `FOLDERS` and in
    exercises/, and the released notebooks with their additional files. If the course is not in git,
    the files are those in `FILES`, those that match `WITHOUT_GIT`, and the released notebooks.
    """
    released = {f"exercises/{p.stem}/{p.name}" for p in assignments.sources(folder)}
    if tracked is None:
        found = {path for pattern in WITHOUT_GIT for path in folder.glob(pattern)}
        names = {path.relative_to(folder).as_posix() for path in found if path.is_file()}
    else:
        names = {name for name in tracked if _is_ours(name)}
        released |= {
            name.replace("solutions/", "exercises/", 1)
            for name in tracked
            if name.startswith("solutions/") and name.count("/") > 1
        }
    return {name for name in {*FILES, *names, *released} if (folder / name).is_file()}


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
        what: A description for error messages, such as "the solution of lora-parameters in
            03_lora.ipynb".
        lines: The identifying lines, which occur in nothing that students may see.
    """

    what: str
    lines: tuple[str, ...]


def secrets(folder: Path) -> list[Secret]:
    """Return the identifying lines of every solution and hidden test of the course in `folder`.

    A line identifies a solution or a hidden test if it has more than `TELLING` characters and is
    neither an import nor the head of a loop. The line must also occur neither in the visible parts
    of the assignments nor in the modules that the assignment withholds. Those modules contain
    reference implementations, and students get them as part of course_utils.
    """
    loaded = {path: notebooks.load(path) for path in assignments.sources(folder)}
    seen = _flat(
        "\n".join(REGION.sub("", c["source"]) for book in loaded.values() for c in book["cells"])
    )
    found = []
    for path, notebook in loaded.items():
        public = f"{seen} {_modules(folder, assignments.withheld(notebook))}"
        for cell in notebook["cells"]:
            for kind, region in REGION.findall(cell["source"]):
                what = "the solution" if kind == "SOLUTION" else "a hidden test"
                lines = tuple(line for line in _telling(region) if line not in public)
                found.append(Secret(f"{what} of {cell.get('id')} in {path.name}", lines))
    return found


def leaks(folder: Path, files: dict[str, Path]) -> list[str]:
    """Return one sentence for each reason not to give `files` to students.

    Such a reason is a solution, a hidden test, or a file that can't be searched.

    Args:
        folder: The course's folder.
        files: The paths of the files to search, by relative path in the students' version.
    """
    hidden = secrets(folder)
    return [
        f"{place} {fault}"
        for name, path in sorted(files.items())
        for place, text in _parts(name, path)
        for fault in _faults(name, text, hidden)
    ]


def _faults(name: str, text: str | None, hidden: list[Secret]) -> Iterator[str]:
    """Yield what is wrong with one part of a file.

    A file of course_utils may contain one identifying line of a solution or a hidden test. All
    other files must contain none.
    """
    if text is None:
        yield "is neither text nor a picture, so it can't be looked through"
        return
    if mark := MARK.search(text):
        yield f"holds the line {mark[0].strip()!r}"
    flat, enough = _flat(text), 1 + name.startswith("course_utils/")
    for secret in hidden:
        if sum(line in flat for line in secret.lines) >= enough:
            yield f"holds {secret.what}"


def _parts(name: str, path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield the parts of a file, each with its place in the file and its text.

    A notebook has one part for each cell and one part for the rest of its JSON. Any other text file
    is a single part. A picture has no parts. For other files that aren't text, the text is None.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        if path.suffix.lower() not in PICTURES:
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
        yield f"{name}, cell {cell.get('id')}," if isinstance(cell, dict) else name, _strings(cell)
    yield name, _strings(data)


def _strings(value: Any) -> str:
    """Return all text in a JSON value; the strings of a list are joined, as in notebooks."""
    if isinstance(value, dict):
        return "\n".join(f"{key}\n{_strings(part)}" for key, part in value.items())
    if isinstance(value, list):
        joint = "" if all(isinstance(part, str) for part in value) else "\n"
        return joint.join(map(_strings, value))
    return str(value)


def _telling(region: str) -> list[str]:
    """Return the lines that may identify a piece of code or text, with normalized spaces."""
    lines = map(_flat, region.splitlines())
    return [line for line in lines if len(line) > TELLING and not line.startswith(EVERYDAY)]


def _modules(folder: Path, names: tuple[str, ...]) -> str:
    """Return the joined source text of modules and packages of the course."""
    places = [folder / name.replace(".", "/") for name in names]
    files = [path for place in places for path in (place.with_suffix(".py"), *place.rglob("*.py"))]
    return _flat("\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file()))


def _flat(text: str) -> str:
    return " ".join(text.split())
