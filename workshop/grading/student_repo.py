"""Write the students' version of the course to a folder or a git work tree.

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
README = Path(__file__).with_suffix(".md")
# The Makefile's commands that students need.
COMMANDS = ("setup", "lab", "run", "check", "fetch-model", "finetune", "serve")
MAKEFILE = """\
# `make lab` opens the course, and `make help` lists all commands.
# Each command first installs what it needs. If everything is installed, that takes milliseconds.
# Arguments of a command are given as ARGS: make lab ARGS="--no-browser". ONLY=07 means --only 07.\
"""

REGION = re.compile(r"### BEGIN (SOLUTION|HIDDEN TESTS)\n(.*?)(?:### END \1|\Z)", re.S)
MARKER = re.compile(r"^\s*### (?:BEGIN|END) (?:SOLUTION|HIDDEN TESTS)", re.M)
# A line identifies a solution or a hidden test only if it has more than this number of characters.
SHORT_LINE = 25
# Lines that begin with one of these words are too common to identify a solution.
COMMON_BEGINNINGS = ("import ", "from ", "for ")
PICTURES = {".gif", ".jpeg", ".jpg", ".png", ".webp"}


# --- writing the students' version ----------------------------------------------------------------


def write(folder: Path, target: Path) -> list[str]:
    """Release all assignments of a course, write the students' version, and list omitted files.

    Args:
        target: A new or empty folder, or the root of a git work tree without uncommitted changes.
            In a work tree, the folders of the course are replaced. All other files are kept, unless
            the students' version contains a file with the same path.

    Returns:
        The relative paths of the files that were left out because they are not in git.

    Raises:
        CourseError: `target` is unsuitable or can't be written, a solution isn't in git, or the
            students' version would contain a solution or a hidden test. `target` is then unchanged,
            unless the error occurred while `target` was being written.
    """
    existing = _files_in_target(target)
    tracked = _git(folder, "ls-files", "-z", "--", *FOLDERS, *FILES, "solutions")
    for path in assignments.sources(folder):
        # An assignment that isn't in git may be a draft.
        if (name := path.relative_to(folder).as_posix()) not in tracked:
            raise CourseError(f"{name} is not in git: commit it, or move it out of solutions/")
    release.release(folder, gradebook=False)
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary)
        _fill(tree, folder, tracked)
        names = (path.relative_to(tree) for path in tree.rglob("*") if path.is_file())
        files = {name.as_posix(): tree / name for name in names}
        filled = (*FOLDERS, "exercises")
        outdated = {n for n in existing - files.keys() if n.partition("/")[0] in filled}
        kept = {name: target / name for name in existing - outdated}
        if problems := leaks(folder, kept | files):
            more = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
            raise CourseError(f"nothing was written, because {problems[0]}{more}")
        try:
            for name in outdated:
                (target / name).unlink(missing_ok=True)
            shutil.copytree(tree, target, dirs_exist_ok=True)
        except OSError as error:
            raise CourseError(f"{target} can't be written: {error.strerror}") from error
    untracked = ("ls-files", "-z", "--others", "--exclude-standard", "--", *FOLDERS, "solutions")
    return sorted(_git(folder, *untracked))


def _files_in_target(target: Path) -> set[str]:
    """Return the relative paths of the files that git tracks in `target`."""
    if (target / "solutions").exists():
        raise CourseError(f"{target} contains solutions/, which students must not get")
    if (target / ".git").exists():
        if _git(target, "status", "--porcelain", "-z"):
            raise CourseError(f"{target} has uncommitted changes: commit or remove them")
        return _git(target, "ls-files", "-z")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CourseError(
            f"{target} exists, but is neither empty nor a git work tree: choose another folder"
        )
    return set()


def _git(folder: Path, *arguments: str) -> set[str]:
    """Run a git command in a folder, and return the file names that it prints."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        output = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        raise CourseError(f"git can't read {folder}: {reason.strip()}") from None
    return {name for name in output.split("\0") if name}


def _fill(tree: Path, folder: Path, tracked: set[str]) -> None:
    released = (name.replace("solutions/", "exercises/", 1) for name in tracked)
    for name in ("exercises/README.md", *released):
        if (folder / name).is_file() and not name.startswith("workshop/benchmarks/"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, tree / name)
    lectures = course_map.course_map(tree, start=tree)
    texts = {
        "Makefile": _makefile((tree / "Makefile").read_text(encoding="utf-8")),
        "README.md": README.read_text(encoding="utf-8").format(lectures=lectures),
    }
    for name, text in texts.items():
        (tree / name).write_text(text, encoding="utf-8", newline="\n")
    # The students' repository contains both the exercises and the lectures, so all badges link to
    # that repository.
    addresses.write(tree, addresses.read(folder).students)
    notebook_check.fix_course(tree)


def _makefile(text: str) -> str:
    """Return the Makefile's text with only the commands that students need."""
    commands = f"COMMANDS = {' '.join(COMMANDS)}"
    text = re.sub(r"^COMMANDS =(?:.*\\\n)*.*", commands, text, flags=re.M)
    _, *rest = text.split("\n\n")
    return "\n\n".join([MAKEFILE, *rest])


# --- searching for solutions and hidden tests -----------------------------------------------------


def secrets(folder: Path) -> dict[str, list[str]]:
    """Return the lines that identify each solution and each hidden test of a course.

    The keys are texts such as "the solution of lora-parameters in 03_lora.ipynb". The lines have
    more than `SHORT_LINE` characters, and are neither imports nor heads of loops. The lines don't
    occur in the visible parts of the assignments or in the modules that the assignment withholds.
    These modules contain reference implementations. Students get them as part of course_utils.
    """
    loaded = {path: notebooks.load(path) for path in assignments.sources(folder)}
    cells = [cell for notebook in loaded.values() for cell in notebook["cells"]]
    visible = _normalized("\n".join(REGION.sub("", cell["source"]) for cell in cells))
    found: dict[str, list[str]] = {}
    for path, notebook in loaded.items():
        public = f"{visible} {_source_of_modules(folder, assignments.withheld(notebook))}"
        for cell in notebook["cells"]:
            for kind, region in REGION.findall(cell["source"]):
                what = "the solution" if kind == "SOLUTION" else "a hidden test"
                lines = found.setdefault(f"{what} of {cell.get('id')} in {path.name}", [])
                for line in map(_normalized, region.splitlines()):
                    is_common = len(line) <= SHORT_LINE or line.startswith(COMMON_BEGINNINGS)
                    if not is_common and line not in public:
                        lines.append(line)
    return found


def leaks(folder: Path, files: dict[str, Path]) -> list[str]:
    """Return one clause for each reason why `files` must not be given to students.

    A reason is a solution, a hidden test, or a file that can't be searched.
    """
    known = secrets(folder)
    return [
        f"{name} {reason}"
        for name, path in sorted(files.items())
        for reason in _leaks_in_file(name, path, known)
    ]


def _leaks_in_file(name: str, path: Path, known: dict[str, list[str]]) -> Iterator[str]:
    """Yield each reason why a file must not be given to students.

    A file of a Python package may contain one line that identifies a solution or a hidden test. Any
    other file must contain no such line.
    """
    text = _text_in_file(path)
    if text is None:
        yield "is not text, a picture or safetensors, so it can't be searched for solutions"
        return
    if marker := MARKER.search(text):
        yield f"contains the line {marker[0].strip()!r}"
    normalized, allowed = _normalized(text), int(name.startswith(PACKAGES))
    for description, lines in known.items():
        if sum(line in normalized for line in lines) > allowed:
            yield f"contains {description}"


def _text_in_file(path: Path) -> str | None:
    """Return the text in a file: "" for a picture, and None for any other file that isn't text.

    The text of a safetensors file is its header, which contains the tensors' names and metadata.
    """
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        data = data[8 : 8 + int.from_bytes(data[:8], "little")]
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "" if path.suffix.lower() in PICTURES else None
    try:
        return _text_in_json(json.loads(text))
    except ValueError:
        # In an HTML page, tags and character references may interrupt a line of code.
        return f"{text}\n{html.unescape(re.sub('<[^>]*>', '', text))}"


def _text_in_json(value: Any) -> str:
    """Return all text in a JSON value; the strings of a list are joined, as in notebooks."""
    if isinstance(value, dict):
        return "\n".join(f"{key}\n{_text_in_json(part)}" for key, part in value.items())
    if isinstance(value, list):
        separator = "" if all(isinstance(part, str) for part in value) else "\n"
        return separator.join(map(_text_in_json, value))
    return str(value)


def _source_of_modules(folder: Path, names: tuple[str, ...]) -> str:
    bases = [folder / name.replace(".", "/") for name in names]
    files = [path for base in bases for path in (base.with_suffix(".py"), *base.rglob("*.py"))]
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    return _normalized("\n".join(texts))


def _normalized(text: str) -> str:
    return " ".join(text.split())
