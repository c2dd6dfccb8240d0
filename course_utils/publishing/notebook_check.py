"""Check that notebooks can be committed and lectures have the required form, and fix notebooks.

    course notebooks check        list the problems
    course notebooks fix          remove outputs and metadata; renew set-up cells and badges

A notebook in git must not contain outputs, execution counts or the state of widgets. The ids of its
cells must be names, such as memory-7b-full.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_utils.files import write_text
from course_utils.notebooks import KERNEL, LANGUAGE, dump, load
from course_utils.publishing import addresses
from course_utils.publishing.addresses import TAG, Addresses, badges, is_lecture, with_badges
from course_utils.publishing.course_map import OPENING, opening, renewed
from course_utils.validation import CourseError

# Maximum number of lines in a code cell of a lecture.
MAX_LINES = 15
NOTEBOOK_METADATA = {"kernelspec", "language_info", "title", "authors", "qlora_course"}
CELL_METADATA = {
    "tags",
    "slideshow",
    "nbgrader",
    "editable",
    "deletable",
    "jupyter",
    "raw_mimetype",
}

# What to do about a problem that can be fixed automatically.
RUN_FIX = "run `course notebooks fix`"
# The id of the cell that contains the table of lectures.
MAP_CELL = "course-map"

# On Colab, the first code cell of every lecture and assignment installs the course from the git tag
# of this package's version. The versions of four packages are fixed, because pip must not change
# these packages while the kernel is running. torchao is uninstalled, because peft does not accept
# Colab's version of torchao.
SETUP = """\
# Does nothing on your own computer. On Colab it installs the course, at a release.
import os
import subprocess
import sys
from importlib import import_module, metadata, util

if "google.colab" in sys.modules and not util.find_spec("course_utils"):
{address}
    held = [f"{{n}}=={{metadata.version(n)}}" for n in ("ipython", "ipywidgets", "numpy", "torch")]
    for step in (["uninstall", "-y", "torchao"], ["install", f"git+{{address}}@{tag}", *held]):
        pip = subprocess.run([sys.executable, "-m", "pip", "-q", *step], capture_output=True)
        if pip.returncode:
            raise RuntimeError(f"`pip {{step[0]}}` failed.\\n{{pip.stderr.decode()[-2000:]}}")
    display(import_module("course_utils.runtime").check_environment())\
"""
ASK = """\
    if not (address := os.environ.get("COURSE_REPOSITORY")):
        raise RuntimeError("Run `%env COURSE_REPOSITORY=<git address of the course>` first.")\
"""
KNOW = """\
    address = "{address}"
    address = os.environ.get("COURSE_REPOSITORY") or address  # another one, if you name it\
"""


def setup_cell(address: str = "") -> str:
    """Return a set-up cell that installs the course from `address`.

    If `address` is empty, the cell tells the user to set the address in a variable first.
    """
    return SETUP.format(address=KNOW.format(address=address) if address else ASK, tag=TAG)


# The set-up cell of a course that is not published.
SETUP_CELL = setup_cell()


def check(path: Path | str) -> list[str]:
    """Return a notebook's problems, which must be solved before the notebook is committed.

    A notebook in a folder named lectures must also have the form of a lecture.

    Returns:
        A message for each problem, with the cell's id if the problem is in a cell; empty if the
        notebook is clean.

    Raises:
        CourseError: an address in the course's pyproject.toml is not valid.
    """
    path = Path(path)
    try:
        notebook = load(path)
    except CourseError as error:
        return [str(error).removeprefix(f"{path} ")]
    cells = notebook["cells"]
    problems = [*_format_problems(notebook), *_id_problems(cells)]
    for number, cell in enumerate(cells):
        name = f"cell {cell.get('id', number)}"
        problems += [f"{name}: {problem}" for problem in _cell_problems(cell)]
    if _is_of_the_course(path):
        problems += _address_problems(cells, path, addresses.read(_course_of(path)))
    if is_lecture(path):
        problems += _lecture_problems(path, cells)
    if not problems and dump(notebook) != path.read_text(encoding="utf-8"):
        problems = [f"is not formatted as Jupyter formats notebooks: {RUN_FIX}"]
    return problems


def _format_problems(notebook: dict[str, Any]) -> Iterator[str]:
    from nbformat.validator import iter_validate

    version = (notebook.get("nbformat"), notebook.get("nbformat_minor"))
    if version != (4, 5):
        yield "has nbformat {}.{}, but must have 4.5, because cells need ids".format(*version)
    else:
        for error in iter_validate(notebook):
            yield f"is not valid in the notebook format: {error.message.splitlines()[0]}"
    metadata = notebook.get("metadata", {})
    if metadata.get("kernelspec", {}).get("name") != KERNEL["name"]:
        yield f"the kernel must be {KERNEL['name']}"
    if "widgets" in metadata:
        yield "contains the state of widgets"
    unwanted = sorted(set(metadata) - NOTEBOOK_METADATA - {"widgets"})
    unwanted += ["language_info"] if metadata.get("language_info", LANGUAGE) != LANGUAGE else []
    if unwanted:
        yield f"contains metadata that must not be in git: {', '.join(unwanted)}"


def _id_problems(cells: list[dict[str, Any]]) -> Iterator[str]:
    seen = set()
    for number, cell in enumerate(cells):
        name = cell.get("id", "")
        if not re.fullmatch(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*", name):
            yield f"cell number {number}: the id {name!r} is not a name such as memory-7b-full"
        elif re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f-]+)?", name):
            yield f"cell number {number}: the id {name!r} is random; choose a name"
        elif name in seen:
            yield f"cell number {number}: another cell has the id {name!r}, too"
        seen.add(name)


def _cell_problems(cell: dict[str, Any]) -> Iterator[str]:
    if cell.get("outputs"):
        yield "contains outputs"
    if cell.get("execution_count") is not None:
        yield "contains an execution count"
    if unwanted := sorted(set(cell.get("metadata", {})) - CELL_METADATA):
        yield f"contains metadata that must not be in git: {', '.join(unwanted)}"


def _is_of_the_course(path: Path) -> bool:
    """Return whether a notebook is a lecture or is in the folder of an assignment."""
    return is_lecture(path) or path.resolve().parents[1].name in ("solutions", "exercises")


def _course_of(path: Path) -> Path:
    """Return the course folder of a lecture or an assignment."""
    return path.resolve().parents[1 if is_lecture(path) else 2]


def _address_problems(
    cells: list[dict[str, Any]], path: Path, published: Addresses
) -> Iterator[str]:
    """Yield the problems of the set-up cell and of the badges, which contain addresses."""
    code = [cell for cell in cells if cell.get("cell_type") == "code"]
    wanted = setup_cell(published.of(path))
    if not code or code[0].get("id") != "setup" or code[0]["source"] != wanted:
        yield f"the first code cell must be the set-up cell, with the id setup: {RUN_FIX}"
    for cell in cells[:1]:
        if cell["source"] != with_badges(cell["source"], badges(path, published)):
            name = cell.get("id")
            yield f"cell {name}: the badges don't have the addresses in pyproject.toml: {RUN_FIX}"


def _lecture_problems(path: Path, cells: list[dict[str, Any]]) -> Iterator[str]:
    header = opening(cells)
    if not header["title"]:
        yield "the first cell must begin with a title such as: # 07 Fine-tuning with QLoRA"
    for label, example in OPENING.items():
        if not header[label]:
            yield f"the first cell must have a line such as: - **{label}:** {example}"
    if header["Takes"] and not re.search(
        r"\d+ minutes? on CPU, \d.* [GM]B of memory", header["Takes"]
    ):
        yield f"the 'Takes' line must look like: - **Takes:** {OPENING['Takes']}"
    for cell in (cell for cell in cells if cell.get("cell_type") == "code"):
        if (lines := len(cell["source"].splitlines())) > MAX_LINES:
            yield f"cell {cell.get('id')}: has {lines} lines; at most {MAX_LINES} are allowed"
    for cell in cells:
        if cell.get("id") == MAP_CELL and cell["source"] != renewed(
            cell["source"], _course_of(path), path.parent
        ):
            yield f"cell {MAP_CELL}: the table of lectures is out of date: {RUN_FIX}"


def fix(path: Path | str) -> bool:
    """Remove outputs and other content that must not be committed; renew generated content.

    Set-up cells, badges and the table of lectures are generated. Cells with unsuitable ids or with
    too many lines of code are not fixed.

    Returns:
        Whether the file changed.

    Raises:
        CourseError: the file can't be read, or it is not a notebook.
    """
    path = Path(path)
    notebook = load(path)
    cells = notebook["cells"]
    _strip(notebook)
    if _is_of_the_course(path):
        _put_addresses(cells, path, addresses.read(_course_of(path)))
    if is_lecture(path):
        for cell in (cell for cell in cells if cell.get("id") == MAP_CELL):
            cell["source"] = renewed(cell["source"], _course_of(path), path.parent)
    clean = dump(notebook)
    changed = clean != path.read_text(encoding="utf-8")
    if changed:
        write_text(path, clean)
    return changed


def _strip(notebook: dict[str, Any]) -> None:
    metadata = notebook.get("metadata", {})
    kept = {name: value for name, value in metadata.items() if name in NOTEBOOK_METADATA}
    notebook["metadata"] = kept | {"kernelspec": dict(KERNEL), "language_info": dict(LANGUAGE)}
    if notebook.get("nbformat") == 4:
        notebook["nbformat_minor"] = 5
    for cell in notebook["cells"]:
        metadata = cell.get("metadata", {})
        cell["metadata"] = {key: metadata[key] for key in metadata if key in CELL_METADATA}
        if cell.get("cell_type") == "code":
            cell["outputs"], cell["execution_count"] = [], None


def published_at(path: Path, published: Addresses) -> str:
    """Return the JSON of a notebook with these addresses in its badges and its set-up cell.

    Raises:
        CourseError: the file can't be read, or it is not a notebook.
    """
    notebook = load(path)
    _put_addresses(notebook["cells"], path, published)
    return dump(notebook)


def _put_addresses(cells: list[dict[str, Any]], path: Path, published: Addresses) -> None:
    """Renew the badges and the set-up cell; a missing set-up cell is added below the first cell."""
    for cell in cells[:1]:
        cell["source"] = with_badges(cell["source"], badges(path, published))
    setup = setup_cell(published.of(path))
    for cell in cells:
        if cell.get("id") == "setup":
            cell["source"] = setup
            return
    new: dict[str, Any] = {"cell_type": "code", "execution_count": None, "id": "setup"}
    cells.insert(1, new | {"metadata": {}, "outputs": [], "source": setup})
