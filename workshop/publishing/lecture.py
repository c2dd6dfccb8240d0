"""The form of a lecture: the lines of its first cell, hidden cells, sections and study time.

A code cell with the tag `hide-input` shows its output and not its source. A section whose heading
begins with *Going deeper:*, after its number, can be skipped. All other sections are the core path
of the lecture.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# The labels of the lines in the first cell, each with an example of its text. The lines have the
# form "- **Slides:** Introduction".
OPENING = {
    "Slides": "Introduction",
    "Question": "What does it take to fine-tune a model?",
    "You will be able to": "count the bytes of a model",
    "Study time": "45 minutes",
    "Run time": "2 minutes on CPU, 1.2 GB of memory",
    "You need to know first": "Python and the basics of PyTorch",
}
HIDDEN = "hide-input"
# The student writes a few lines in a cell with this tag.
YOUR_TURN = "your-turn"
DEEPER = "Going deeper: "
# A heading of a section without its number, and a link to a section of the same lecture.
HEADING = re.compile(r"\A## (?:\d+\.\d+ )?(?=(\S.*)$)", re.M)
SECTION_LINK = re.compile(r"\[section [\d.]+\]\(#[\d.]+-([^)\s]+)\)")
# In JupyterLab, a heading with this metadata is folded when the notebook is opened.
FOLDED = "jp-MarkdownHeadingCollapsed"
# The titles of hidden cells, by the function that the cell calls.
TITLES = {
    "predict": "Your prediction",
    "reveal": "The answer",
    "answer": "The answer",
    "with your_turn": "The check of your lines",
    "tally": "Your predictions and the results",
}
OTHER_TITLE = "Code that you can skip"
# The ids of generated cells: the set-up cell, the table of lectures, and the words of a lecture.
SETUP_CELL, MAP_CELL, WORDS_CELL = "setup", "course-map", "words"

# The speed of a student who wants to understand everything: words of text in a minute, lines of
# code in a minute, results of code cells in a minute, and minutes for writing a few lines.
# With these speeds, the study times of lectures 00 to 06 were within 15% of the minutes that two
# readers needed.
WORDS, LINES, RESULTS, TURN = 125, 5, 2.5, 5
PREDICTION = re.compile(r"^predict\(", re.M)
# Pictures such as badges, HTML tags, addresses of links, and the line for the study time.
NOT_READ = re.compile(r"!\[[^\]]*\]\([^)]*\)|<[^>]*>|\]\([^)]*\)|^- \*\*Study time:\*\*.*$", re.M)


# --- the first cell -------------------------------------------------------------------------------


def opening(cells: list[dict[str, Any]]) -> dict[str, str]:
    """Return the texts in the first cell by "title" and the labels of `OPENING`; "" if missing."""
    text = cells[0]["source"] if cells and cells[0].get("cell_type") == "markdown" else ""
    patterns = {"title": r"\A# (\S.*)$"}
    patterns |= {label: _line(label) for label in OPENING}
    matches = {name: re.search(pattern, text, re.M) for name, pattern in patterns.items()}
    return {name: match[1] if match else "" for name, match in matches.items()}


def _line(label: str) -> str:
    """Return the pattern of a line of the first cell; its group 1 is the text after the label."""
    return rf"^- \*\*{label}:\*\* (\S.*)$"


def with_study_time(cells: list[dict[str, Any]]) -> str:
    """Return the text of a lecture's first cell with the line for its study time.

    If the line is missing, it is added above the line *Run time*.
    """
    text = cells[0]["source"]
    line = f"- **Study time:** {study_time(cells)}"
    if re.search(_line("Study time"), text, re.M):
        return re.sub(_line("Study time"), lambda _: line, text, count=1, flags=re.M)
    return re.sub(_line("Run time"), lambda old: f"{line}\n{old[0]}", text, count=1, flags=re.M)


# --- study time -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyTime:
    """The minutes that a student needs for a whole lecture and for its core path."""

    whole: int
    core: int

    def __str__(self) -> str:
        core = f" ({self.core} minutes without the *Going deeper* sections)"
        return f"{self.whole} minutes{core if self.core < self.whole else ''}"

    def short(self) -> str:
        """Return the times for a cell of a table."""
        return f"{self.whole} min" + (f" (core: {self.core})" if self.core < self.whole else "")


def study_time(cells: list[dict[str, Any]]) -> StudyTime:
    """Compute the study time of a lecture from its texts, its visible code and its predictions.

    A student reads 125 words or 5 lines of code in a minute, and looks at the result of a code cell
    for 24 seconds. A prediction takes one minute, and a cell with a few lines to write takes five.
    The sum is rounded to 5 minutes. Generated cells and hidden code are not counted, but the
    results of hidden code are.
    """
    minutes = [_minutes(cell) for cell in cells]
    core = [time for time, is_deeper in zip(minutes, deeper(cells), strict=True) if not is_deeper]
    return StudyTime(_rounded(sum(minutes)), _rounded(sum(core)))


def _minutes(cell: dict[str, Any]) -> float:
    if cell.get("id") in (SETUP_CELL, MAP_CELL, WORDS_CELL):
        return 0
    predictions = len(PREDICTION.findall(cell["source"]))
    turn = TURN if YOUR_TURN in cell.get("metadata", {}).get("tags", []) else 0
    if cell.get("cell_type") == "markdown":
        text = NOT_READ.sub(" ", cell["source"])
        return predictions + len(re.findall(r"\w[\w'’.,-]*", text)) / WORDS
    lines = 0 if is_hidden(cell) else len(list(filter(str.strip, cell["source"].splitlines())))
    return predictions + turn + lines / LINES + 1 / RESULTS


def _rounded(minutes: float) -> int:
    return max(5, 5 * round(minutes / 5))


# --- sections -------------------------------------------------------------------------------------


def begins_deeper(cell: dict[str, Any]) -> bool:
    """Return whether a cell begins a *Going deeper* section."""
    heading = HEADING.match(cell["source"]) if cell.get("cell_type") == "markdown" else None
    return heading is not None and heading[1].startswith(DEEPER)


def deeper(cells: list[dict[str, Any]]) -> Iterator[bool]:
    """Yield for each cell whether it is in a *Going deeper* section.

    A section begins with a cell that begins with a heading of level 1 or 2.
    """
    inside = False
    for cell in cells:
        if cell.get("cell_type") == "markdown" and re.match("##? ", cell["source"]):
            inside = begins_deeper(cell)
        yield inside


def number_sections(cells: list[dict[str, Any]], lecture: int) -> Iterator[tuple[str, str]]:
    """Number the sections above the cell `closing`, and the links to them, in place.

    A link has the form [section 3.1](#3.1-Why-does-B-start-at-zero?), with the anchor that
    JupyterLab gives to the heading.

    Yields:
        the id of a cell with a link to a missing section, and the anchor without its number.
    """
    numbers: dict[str, str] = {}
    closing = next((i for i, cell in enumerate(cells) if cell.get("id") == "closing"), len(cells))
    texts = [cell for cell in cells if cell.get("cell_type") == "markdown"]
    for cell in (cell for cell in texts if cell in cells[:closing]):
        if heading := HEADING.match(cell["source"]):
            number = f"{lecture}.{len(numbers) + 1}"
            numbers[re.sub("[`*]", "", heading[1]).replace(" ", "-")] = number
            cell["source"] = HEADING.sub(f"## {number} ", cell["source"], count=1)
    for cell in texts:
        cell["source"] = SECTION_LINK.sub(
            lambda link: "[section {0}](#{0}-{1})".format(numbers.get(link[1], "0"), link[1]),
            cell["source"],
        )
        missing = (link[1] for link in SECTION_LINK.finditer(cell["source"]))
        yield from ((cell["id"], name) for name in missing if name not in numbers)


def folded(cells: list[Any], badge: str) -> list[Any]:
    """Return the cells of a page on which the *Going deeper* sections are folded.

    The first cell of a section remains visible, with `badge` instead of the words *Going deeper:*.
    Raw cells with HTML enclose the other cells, so that a browser still finds their text.
    """
    result: list[Any] = []
    end: list[Any] = []
    for cell, is_deeper in zip(cells, deeper(cells), strict=True):
        starts = begins_deeper(cell)
        if starts or not is_deeper:
            result += end
            end = []
        if not starts:
            result.append(cell)
            continue
        result.append({**cell, "source": cell["source"].replace(DEEPER, f"{badge} ", 1)})
        result.append(_raw(f"{cell['id']}-folded", FOLD))
        end = [_raw(f"{cell['id']}-end", "</details>")]
    return result + end


FOLD = '<details class="deeper"><summary>Show this section</summary>'


def _raw(name: str, markup: str) -> dict[str, Any]:
    metadata = {"raw_mimetype": "text/html"}
    return {"cell_type": "raw", "id": name, "metadata": metadata, "source": markup}


def needs_deeper(cells: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the id of each code cell on the core path that needs a *Going deeper* section.

    The second value is a name that the cell uses and that only such a section defines.
    """
    core: set[str] = set()
    skipped: set[str] = set()
    for cell, is_deeper in zip(cells, deeper(cells), strict=True):
        used, defined = _names(cell)
        if is_deeper:
            skipped |= defined
            continue
        core |= defined
        yield from ((cell.get("id", ""), name) for name in sorted(used & skipped - core))


def _names(cell: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Return the names that a code cell uses and those that it defines; empty without Python."""
    if cell.get("cell_type") != "code":
        return set(), set()
    try:
        nodes = list(ast.walk(ast.parse(cell["source"])))
    # A cell may contain a command of IPython, such as %env.
    except SyntaxError:
        return set(), set()
    names = [node for node in nodes if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    defined = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    defined |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    imports = [node for node in nodes if isinstance(node, ast.alias)]
    defined |= {node.asname or node.name.partition(".")[0] for node in imports}
    return used, defined


# --- hidden cells ---------------------------------------------------------------------------------


def is_hidden(cell: dict[str, Any]) -> bool:
    """Return whether a code cell shows its output and not its source."""
    tags = cell.get("metadata", {}).get("tags", [])
    return cell.get("cell_type") == "code" and HIDDEN in tags


def is_check(cell: dict[str, Any]) -> bool:
    """Return whether a code cell of an assignment has points."""
    nbgrader = cell.get("metadata", {}).get("nbgrader", {})
    return cell.get("cell_type") == "code" and nbgrader.get("grade", False)


def with_view(cell: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a cell, with the entries by which editors hide or fold it."""
    kept = cell.get("metadata", {}).items()
    metadata = {key: value for key, value in kept if key not in ("cellView", FOLDED)}
    if begins_deeper(cell):
        metadata[FOLDED] = True
    jupyter = {**metadata.pop("jupyter", {})}
    jupyter.pop("source_hidden", None)
    if is_hidden(cell):
        jupyter["source_hidden"] = True
        metadata["cellView"] = "form"
    return metadata | ({"jupyter": jupyter} if jupyter else {})


def with_title(cell: dict[str, Any]) -> str:
    """Return the source of a hidden cell with a title in its first line.

    JupyterLab and Colab show this line in place of the source. A magic command such as %%capture
    must remain in the first line.
    """
    source = cell["source"]
    if source.startswith(("# @title ", "%%")):
        return source
    titles = (title for call, title in TITLES.items() if re.search(rf"^{call}\(", source, re.M))
    return f"# @title {next(titles, OTHER_TITLE)}\n{source}"


def without_hidden_sources(cells: list[Any]) -> list[Any]:
    """Return the cells that a page shows: hidden sources are "".

    Hidden cells without outputs are left out. The checks of an assignment keep their sources.
    """

    def loses_source(cell: Any) -> bool:
        return is_hidden(cell) and not is_check(cell)

    shown = [cell for cell in cells if cell.get("outputs") or not loses_source(cell)]
    return [{**cell, "source": ""} if loses_source(cell) else cell for cell in shown]
