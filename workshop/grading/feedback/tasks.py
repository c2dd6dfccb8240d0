"""Make a student's feedback page: the points, answers and failed checks of each task.

    GetGrades            a preprocessor, which adds the grades to the notebook's cells
    TaskResults          a preprocessor, which reads the tasks from the notebook
    feedback.html.j2     the template, which shows what `TaskResults` found

The page shows neither the source of a check nor a cell's outputs, except for the messages of failed
checks. A student's code may store the inputs of hidden tests, and a later cell could print them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from nbconvert.filters import Highlight2HTML, strip_ansi
from nbconvert.preprocessors import Preprocessor
from nbgrader.preprocessors import GetGrades as StockGetGrades
from traitlets import Bool

from course_utils.exercise.checks import HIDDEN_PREFIX, PREFIX, joined_lines
from workshop.grading.assignments import HEADER, LECTURE, bonus_points, is_answer, is_graded
from workshop.grading.feedback.harmless import markdown
from workshop.grading.pages import page_template

# Maximum length of a value on the page, in characters.
MAX_VALUE = 20_000
# What the labels in a check's message mean, in the order of the page.
WORDS = {
    "": "call",
    "returned": "returned",
    "raised": "raised",
    "in": "in line",
    "expected": "expected",
    "differs": "first difference",
    "likely": "likely mistake",
    "try": "try it",
}
LABEL = re.compile(rf"  ({'|'.join(filter(None, WORDS))})\s")
NOT_SHOWN = "(not shown: a check that grading adds)"
HEADING = re.compile(r"\A## (.+)$", re.M)
# The address of this notebook on Colab, which `course badges` writes into the opening cell.
COLAB = re.compile(
    r"(https://colab\.research\.google\.com/github/[\w./-]+?)/\w+/\d\d_\w+/\d\d_\w+\.ipynb"
)


class GetGrades(StockGetGrades):
    """Adds the grades to the notebook's cells, and whether a person still has to give points."""

    def _get_score(self, cell: Any, resources: Any) -> None:
        super()._get_score(cell, resources)
        names = (self.notebook_id, self.assignment_id, self.student_id)
        grade = self.gradebook.find_grade(cell.metadata.nbgrader.grade_id, *names)
        cell.metadata.nbgrader["waiting"] = bool(grade.needs_manual_grade)


@dataclass
class Part:
    """One cell with points: a check, or an answer that a person grades.

    Attributes:
        title: A text such as "check 1 of 3", or "your answer".
        score: the student's points; None if a person still has to give them.
        message: the parts of a failed check's message, each with its label.
    """

    title: str
    points: float
    score: float | None
    message: tuple[tuple[str, str], ...] = ()
    is_hidden: bool = False

    @property
    def state(self) -> str:
        """Return "right", "partly right", "wrong" or "not graded yet"."""
        if self.score is None:
            return "not graded yet"
        return "right" if self.score >= self.points else "partly right" if self.score else "wrong"


@dataclass
class TaskResult:
    """A task with the student's answer and its results.

    Attributes:
        lectures: the cells of lectures that explain the task: title, file and address or "".
    """

    title: str
    is_bonus: bool = False
    lectures: list[tuple[str, str, str]] = field(default_factory=list)
    answers: list[Markup] = field(default_factory=list)
    comments: list[Markup] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    @property
    def points(self) -> float:
        """Return the maximum points."""
        return sum(part.points for part in self.parts)

    @property
    def score(self) -> float:
        """Return the points that are known."""
        return sum(part.score or 0 for part in self.parts)

    @property
    def waiting(self) -> float:
        """Return the points that a person still has to give."""
        return sum(part.points for part in self.parts if part.score is None)

    @property
    def state(self) -> str:
        """Return the state of the whole task, one of the four texts that `Part.state` returns."""
        if self.waiting:
            return "not graded yet"
        return Part("", self.points, self.score).state


class TaskResults(Preprocessor):
    """Makes the feedback page from a notebook."""

    enabled = Bool(True).tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Return an empty notebook, and the resources with the page as the new entry "tasks"."""
        about, tasks = resources["nbgrader"], results(nb)
        texts = (cell.source for cell in nb.cells if cell.cell_type == "markdown")
        headings = (re.match(r"# (.+)", text) for text in texts)
        page = page_template("feedback/feedback.html.j2", MAX_VALUE).render(
            title=next((heading[1] for heading in headings if heading), about["notebook"]),
            problem=[_answer(cell) for cell in nb.cells if cell.get("id") == "ungradable"],
            tasks=[task for task in tasks if not task.is_bonus],
            bonus=[task for task in tasks if task.is_bonus],
            penalty=about["late_penalty"],
            words=WORDS,
        )
        nb.cells = []
        return nb, {**resources, "tasks": page}


def results(notebook: Any) -> list[TaskResult]:
    """Return the tasks of a graded notebook whose cells contain the grades."""
    tasks: list[TaskResult] = []
    text, base = "", _colab(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and HEADING.match(cell.source):
            text = cell.source
            tasks.append(_task(text, base))
        elif "nbgrader" in cell.metadata and (is_answer(cell) or is_graded(cell)):
            if not tasks:
                tasks.append(TaskResult(cell.metadata.nbgrader.grade_id))
            _add(tasks[-1], cell)
    return [_numbered(task) for task in tasks if task.parts]


def _colab(notebook: Any) -> str:
    """Return the address of the course on Colab; "" if the course isn't published."""
    found = COLAB.search(notebook.cells[0].source) if notebook.cells else None
    return found[1] if found else ""


def _task(text: str, base: str) -> TaskResult:
    """Return a task without results, from the text above its answer."""
    header, heading = HEADER.match(f"{text}\n\n"), HEADING.match(text)
    title = f"{header['number']} {header['title']}" if header else heading[1] if heading else ""
    lectures = [
        (name, file, f"{base}/lectures/{file}#scrollTo={cell}" if base else "")
        for name, file, cell in LECTURE.findall(text)
    ]
    return TaskResult(title, bool(header and header["bonus"]), lectures)


def _add(task: TaskResult, cell: Any) -> None:
    data = cell.metadata.nbgrader
    if is_answer(cell):
        task.answers.append(_answer(cell))
        if data.get("comment"):
            task.comments.append(Markup(markdown({}, data["comment"])))
    if is_graded(cell):
        title = "your answer" if is_answer(cell) else "check"
        score = None if data.get("waiting") else data.get("score", 0)
        message = _message(cell)
        points = bonus_points(cell) or data.get("points", 0)
        is_hidden = message.startswith(HIDDEN_PREFIX)
        task.parts.append(Part(title, points, score, tuple(split(message)), is_hidden))


def _answer(cell: Any) -> Markup:
    if cell.cell_type == "markdown":
        return Markup(markdown({"cell": cell}, cell.source))
    return Markup(Highlight2HTML(pygments_lexer="ipython3")(cell.source))


def _numbered(task: TaskResult) -> TaskResult:
    checks = [part for part in task.parts if part.title == "check"]
    for number, part in enumerate(checks, 1):
        part.title = f"check {number} of {len(checks)}"
    return task


def _message(cell: Any) -> str:
    """Return the message of a failed check; "" if there is none.

    The message of any other error has no traceback, because a traceback shows the cell's code.
    """
    errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
    if not errors or is_answer(cell):
        return ""
    text = strip_ansi("\n".join(errors[0].traceback))
    if errors[0].ename == "CheckFailed" and text.startswith((PREFIX, HIDDEN_PREFIX)):
        return text
    return joined_lines(f"{errors[0].ename}: {errors[0].evalue}")


def split(message: str) -> list[tuple[str, str]]:
    """Return the parts of a check's message, each with its label; the call has the label "".

    The message of a hidden check is returned without the expected result.
    """
    text = message.removeprefix(HIDDEN_PREFIX).removeprefix(PREFIX)
    parts: list[tuple[str, str]] = []
    for line in text.split("\n"):
        if label := LABEL.match(line):
            parts.append((label[1], line[label.end() :].strip()))
        elif parts:
            name, before = parts[-1]
            parts[-1] = (name, f"{before} {line.strip()}".strip())
        elif line.strip():
            parts.append(("", line.strip()))
    if not message.startswith(HIDDEN_PREFIX):
        return parts
    return [(p, NOT_SHOWN if p == "expected" else text) for p, text in parts if p != "differs"]
