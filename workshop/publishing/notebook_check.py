"""Check that notebooks can be committed and lectures have the required form, and fix notebooks.

    course notebooks check        list the problems
    course notebooks fix          remove outputs and metadata; renew generated content

A notebook in git must not contain outputs, execution counts or the state of widgets. The ids of its
cells must be names, such as memory-7b-full. The modules `lecture` and `glossary` define what is
generated for a lecture: its study time, its list of words, and the metadata of hidden cells.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_utils.machine.files import write_text
from course_utils.machine.notebooks import FOLDERS, KERNEL, LANGUAGE, all_notebooks, dump, load
from course_utils.machine.validation import CourseError
from workshop.publishing import addresses, glossary, lecture
from workshop.publishing.addresses import TAG, badges, is_lecture, with_badges
from workshop.publishing.course_map import fix_pages, renewed
from workshop.publishing.lecture import HIDDEN, MAP_CELL, OPENING, WORDS_CELL, is_hidden

# Maximum number of lines in a code cell of a lecture, unless its source is hidden.
MAX_LINES = 15
NOTEBOOK_METADATA = {"kernelspec", "language_info", "title", "authors", "qlora_course"}
CELL_METADATA = {
    *("tags", "slideshow", "nbgrader", "qlora_course", "editable", "deletable", "jupyter"),
    *("raw_mimetype", "cellView", lecture.FOLDED),
}

# What to do about a problem that can be fixed automatically.
RUN_FIX = "run `course notebooks fix`"
RUN_TIME = re.compile(r"\d+ minutes? on CPU, \d.* [GM]B of memory")

# The key of a prediction.
PREDICTION_KEY = re.compile(r"""^predict\(\s*["']([\w-]+)["']""", re.M)

# On Colab and Kaggle, the first code cell of every lecture and assignment installs the release of
# this package's version. The versions of four packages are fixed, because pip must not change these
# packages while the kernel is running. torchao is uninstalled, because peft does not accept Colab's
# version of torchao. The cell is hidden: JupyterLab then shows its first line, and Colab shows the
# title in this line.
SETUP = """\
# @title Set-up: on Colab and Kaggle, this cell installs the course. Elsewhere it does nothing.
import os
import subprocess
import sys
from importlib import import_module, metadata, util

hosted = "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ
if hosted and not util.find_spec("course_utils"):
{source}
    held = [f"{{n}}=={{metadata.version(n)}}" for n in ("ipython", "ipywidgets", "numpy", "torch")]
    for step in (["uninstall", "-y", "torchao"], ["install", course, *held]):
        pip = subprocess.run([sys.executable, "-m", "pip", "-q", *step], capture_output=True)
        if pip.returncode:
            raise RuntimeError(f"`pip {{step[0]}}` failed.\\n{{pip.stderr.decode()[-2000:]}}")
    display(import_module("course_utils.machine.environment").check_environment())\
"""
ASK = """\
    if not (address := os.environ.get("COURSE_REPOSITORY")):
        raise RuntimeError("Run `%env COURSE_REPOSITORY=<git address of the course>` first.")
    course = f"git+{{address}}@{tag}"\
"""
KNOW = """\
    address = os.environ.get("COURSE_REPOSITORY")  # another address, if you name one
    course = f"git+{{address or '{address}'}}@{tag}"\
"""


def setup_cell(address: str = "") -> str:
    """Return a set-up cell that installs the course on Colab and Kaggle.

    Args:
        address: the git address of the course. If it is empty, the cell tells the user to set the
            address in a variable first.
    """
    source = KNOW if address else ASK
    return SETUP.format(source=source.format(address=address, tag=TAG))


# The set-up cell of a course that is not published.
SETUP_CELL = setup_cell()


# --- checking -------------------------------------------------------------------------------------


def check(path: Path | str) -> list[str]:
    """Return a notebook's problems, which must be solved before the notebook is committed.

    A notebook in a folder named lectures must also have the form of a lecture.

    Raises:
        CourseError: an address in the course's pyproject.toml is not valid.
    """
    path = Path(path)
    try:
        notebook = load(path)
    except CourseError as error:
        return [str(error).removeprefix(f"{path} ")]
    problems = [*_format_problems(notebook), *_id_problems(notebook["cells"])]
    if not problems:
        problems += _differences(notebook, _fixed(path, notebook))
    if _is_of_the_course(path):
        problems += _setup_problems(notebook["cells"])
    if is_lecture(path):
        problems += _header_problems(notebook["cells"])
        problems += _text_problems(notebook["cells"], _course_of(path))
        problems += _code_problems(notebook["cells"])
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


def _differences(notebook: dict[str, Any], fixed: dict[str, Any]) -> Iterator[str]:
    """Yield the differences between a notebook and its fixed copy, with a remedy."""
    if keys := _changed_keys(notebook["metadata"], fixed["metadata"]):
        yield f"the metadata {keys} must not be in git, or is out of date: {RUN_FIX}"
    new = {cell["id"]: cell for cell in fixed["cells"]}
    for cell in notebook["cells"]:
        name, clean = f"cell {cell['id']}", new[cell["id"]]
        if cell.get("outputs"):
            yield f"{name}: contains outputs: {RUN_FIX}"
        if cell.get("execution_count") is not None:
            yield f"{name}: contains an execution count: {RUN_FIX}"
        if keys := _changed_keys(cell["metadata"], clean["metadata"]):
            yield f"{name}: the metadata {keys} must not be in git, or is out of date: {RUN_FIX}"
        if cell["source"] != clean["source"]:
            yield f"{name}: is out of date: {RUN_FIX}"


def _changed_keys(old: dict[str, Any], new: dict[str, Any]) -> str:
    return ", ".join(sorted(key for key in old | new if old.get(key) != new.get(key)))


def _is_of_the_course(path: Path) -> bool:
    return is_lecture(path) or path.resolve().parents[1].name in FOLDERS


def _course_of(path: Path) -> Path:
    return path.resolve().parents[1 if is_lecture(path) else 2]


def _setup_problems(cells: list[dict[str, Any]]) -> Iterator[str]:
    if next((cell.get("id") for cell in cells if cell.get("cell_type") == "code"), "") != "setup":
        yield f"the first code cell must be the set-up cell, with the id setup: {RUN_FIX}"


def _header_problems(cells: list[dict[str, Any]]) -> Iterator[str]:
    header = lecture.opening(cells)
    if not header["title"]:
        yield "the first cell must begin with a title such as: # 07 Fine-tuning with QLoRA"
    for label, example in OPENING.items():
        if not header[label]:
            yield f"the first cell must have a line such as: - **{label}:** {example}"
    if header["Run time"] and not RUN_TIME.search(header["Run time"]):
        yield f"the 'Run time' line must look like: - **Run time:** {OPENING['Run time']}"


def _text_problems(cells: list[dict[str, Any]], folder: Path) -> Iterator[str]:
    if not any(cell.get("id") == WORDS_CELL for cell in cells):
        yield f"a Markdown cell must have the id {WORDS_CELL}: it lists the words of the lecture"
    for place, anchor in glossary.broken_links(cells, glossary.entries(folder)):
        yield f"cell {place}: {glossary.PAGE} has no term with the anchor #{anchor}"
    for place, name in lecture.number_sections(copy.deepcopy(cells), 0):
        yield f"cell {place}: links to a section that does not exist: {name}"


def _code_problems(cells: list[dict[str, Any]]) -> Iterator[str]:
    for place, used in lecture.needs_deeper(cells):
        yield f"cell {place}: uses {used}, which only a section {lecture.DEEPER.strip()} defines"
    seen = set()
    for cell in (cell for cell in cells if cell.get("cell_type") == "code"):
        name, source = f"cell {cell.get('id')}", cell["source"]
        for key in PREDICTION_KEY.findall(source):
            if key in seen:
                yield f"{name}: another prediction has the key {key}, too"
            seen.add(key)
        if is_hidden(cell):
            continue
        lines = len(source.splitlines())
        if lines > MAX_LINES:
            yield f"{name}: has {lines} lines; at most {MAX_LINES} are allowed"
        if re.search(r"^\s*assert\b", source, re.M):
            yield (
                f"{name}: contains an assert. Asserts are for tests and students should not "
                f"see them: move them to a cell with the tag {HIDDEN}"
            )


# --- fixing ---------------------------------------------------------------------------------------


def fix_course(folder: Path) -> list[Path]:
    """Fix all notebooks of a course, renew its pages, and return the files that changed."""
    return [*filter(fix, all_notebooks(folder)), *fix_pages(folder)]


def fix(path: Path | str) -> bool:
    """Remove outputs and other content that must not be committed; renew generated content.

    These are generated: set-up cells, badges, the table of lectures, section numbers, the
    study time and the list of terms of a lecture, and the titles and the metadata of hidden cells.
    The result is whether the file changed.

    Raises:
        CourseError: the file can't be read, or it is not a notebook.
    """
    path = Path(path)
    clean = dump(_fixed(path, load(path)))
    changed = clean != path.read_text(encoding="utf-8")
    if changed:
        write_text(path, clean)
    return changed


def _fixed(path: Path, notebook: dict[str, Any]) -> dict[str, Any]:
    notebook = copy.deepcopy(notebook)
    cells = notebook["cells"]
    kept = {k: value for k, value in notebook["metadata"].items() if k in NOTEBOOK_METADATA}
    notebook["metadata"] = kept | {"kernelspec": dict(KERNEL), "language_info": dict(LANGUAGE)}
    if notebook.get("nbformat") == 4:
        notebook["nbformat_minor"] = 5
    for cell in cells:
        metadata = cell.get("metadata", {})
        cell["metadata"] = {key: metadata[key] for key in metadata if key in CELL_METADATA}
        if cell.get("cell_type") == "code":
            cell["outputs"], cell["execution_count"] = [], None
    if _is_of_the_course(path):
        _renew_addresses(path, cells)
    if is_lecture(path):
        _renew_lecture(path, cells)
    for cell in cells:
        cell["metadata"] = lecture.with_view(cell)
    return notebook


def _renew_addresses(path: Path, cells: list[dict[str, Any]]) -> None:
    """Renew the badges and the set-up cell; a missing set-up cell is added below the first cell."""
    published = addresses.read(_course_of(path))
    for cell in cells[:1]:
        cell["source"] = with_badges(cell["source"], badges(path, published))
    setup = next((cell for cell in cells if cell.get("id") == "setup"), None)
    if setup is None:
        setup = {"cell_type": "code", "execution_count": None, "id": "setup"}
        setup |= {"metadata": {}, "outputs": []}
        cells.insert(1, setup)
    tags = setup["metadata"].get("tags", [])
    setup["metadata"]["tags"] = tags if HIDDEN in tags else [*tags, HIDDEN]
    setup["source"] = setup_cell(published.of(path))


def _renew_lecture(path: Path, cells: list[dict[str, Any]]) -> None:
    """Renew the table of lectures, the titles of hidden cells, the words and the study time."""
    folder = _course_of(path)
    list(lecture.number_sections(cells, int(path.name[:2])))
    for cell in cells:
        if cell.get("id") == MAP_CELL:
            cell["source"] = renewed(cell["source"], folder, path.parent)
        elif is_hidden(cell):
            cell["source"] = lecture.with_title(cell)
        elif cell.get("id") == WORDS_CELL:
            cell["source"] = glossary.words(cells, glossary.entries(folder))
    if cells and cells[0].get("cell_type") == "markdown":
        cells[0]["source"] = lecture.with_study_time(cells)
