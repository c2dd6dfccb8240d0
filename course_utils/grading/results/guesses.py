"""Show what a class guessed: one HTML page with a histogram for each question of `predict`.

    read(folder)              the files that students handed in, and why others were left out
    lectures(folder)          the questions as the course's notebooks ask them
    results(files, lectures)  the guesses of the class, for each question
    write_page(path, …)       the page, which needs no network

Students can edit their files, so the wording of a question and the reasons come from the lectures.
If the lectures compute the wording, or if there are no lectures, most files decide. A guess counts
only if its file has this wording. The answer is the most frequent answer in the files or, for
numbers, the median.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from statistics import median
from typing import Any

from markupsafe import Markup

from course_utils import notebooks
from course_utils.files import write_text
from course_utils.grading.results.pages import one_line, page_template
from course_utils.grading.safe_files import escape_unprintable, read_bytes
from course_utils.guesses import (
    MAX_GUESSES,
    MAX_QUESTION,
    Guess,
    Question,
    counted,
    from_json,
    is_close,
    the_answer,
    with_unit,
    written,
)

# The maximum size of a file in bytes (B), number of files, and number of nested folders.
MAX_SIZE, MAX_FILES, MAX_DEPTH = 500_000, 10_000, 20
FILE_NAME = re.compile(r"(?:(?P<student>.+)_)?.*guesses-.*\.json", re.DOTALL)
# nbgrader keeps the files of a student in a folder with the student's name in one of these folders.
NBGRADER = ("submitted", "autograded")
# Moodle unpacks the files of a student into a folder whose name contains this text.
MOODLE = "_assignsubmission_"


# --- files of students ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Handed:
    """A file with the guesses of one student.

    Attributes:
        lecture: the lecture's name.
        guesses: the guesses by the key of the question.
        student: what tells the student apart from others.
    """

    lecture: str
    guesses: Mapping[str, Guess]
    student: str


def read(folder: Path) -> tuple[list[Handed], list[str]]:
    """Read all files guesses-*.json in a folder and its subfolders, without following links.

    If several files have the same student and lecture, only the newest counts. Students are told
    apart by the folders of nbgrader and Moodle and by file names such as NAME_guesses-03.json.
    Otherwise each file counts as one student.

    Returns:
        The files, and a line for each file that was left out.
    """
    files: list[tuple[float, str, Handed]] = []
    problems: list[str] = []
    for number, path in enumerate(_paths(folder, problems)):
        name = path.relative_to(folder).as_posix()
        if number == MAX_FILES:
            problems.append(f"only the first {MAX_FILES:,} files were read")
            break
        try:
            lecture, guesses = from_json(read_bytes(path, MAX_SIZE))
            time = os.lstat(path).st_mtime
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            problems.append(_left_out(name, reason or "it can't be read"))
        else:
            by_key = {guess.question.key: guess for guess in guesses}
            student = _student(PurePath(folder.resolve().name, name)) or name
            files.append((time, name, Handed(lecture, by_key, student)))
    # Of several files of a student, the last one replaces the others.
    files.sort(key=lambda file: file[:2])
    return list({(file.student, file.lecture): file for _, _, file in files}.values()), problems


def _left_out(name: str, reason: str) -> str:
    return escape_unprintable(f"{name} was left out: {reason}")


def _paths(folder: Path, problems: list[str]) -> Iterator[Path]:
    """Yield the paths of files of guesses, sorted; hidden folders contain only copies."""

    def unreadable(error: OSError) -> None:
        problems.append(_left_out(str(error.filename), error.strerror or "it can't be read"))

    for place, folders, names in os.walk(folder, onerror=unreadable):
        deep = len(Path(place).relative_to(folder).parts) >= MAX_DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if name[0] != ".")
        yield from (Path(place, name) for name in sorted(names) if FILE_NAME.fullmatch(name))


def _student(path: PurePath) -> str:
    """Return what tells the student of a file apart; "" if nothing does.

    Args:
        path: the path of the file, which begins with the name of the folder of the class.
    """
    *folders, name = path.parts
    for parent, folder in itertools.pairwise(folders):
        if parent in NBGRADER:
            return folder
    if moodle := [folder for folder in folders if MOODLE in folder]:
        return moodle[0]
    match = FILE_NAME.fullmatch(name)
    return str(path.with_name(match["student"])) if match and match["student"] else ""


# --- questions of the lectures --------------------------------------------------------------------


@dataclass
class Lecture:
    """The questions of a lecture, as its notebook asks them.

    Attributes:
        title: the title of the notebook.
        keys: the keys of the questions, in order.
        questions: the questions by key, without those whose wording is computed.
        why: for each key, what somebody who chose a wrong choice overlooked, by choice.
    """

    title: str
    keys: list[str] = field(default_factory=list)
    questions: dict[str, Question] = field(default_factory=dict)
    why: dict[str, dict[str, str]] = field(default_factory=dict)


def lectures(folder: Path) -> dict[str, Lecture]:
    """Return the lectures of a course folder that end with `tally`, by the name that they pass."""
    found = {}
    for path in notebooks.lectures(folder):
        cells = notebooks.load(path)["cells"]
        text = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
        heading = re.search(r"^# (.+)$", text, re.MULTILINE)
        lecture = Lecture(heading[1] if heading else path.stem)
        for name, arguments in _calls(cells):
            if name == "tally":
                found[arguments["lecture"]] = lecture
            elif name == "predict":
                _add_question(lecture, arguments)
            elif isinstance(why := arguments.get("why"), dict):
                reasons = {choice: text for choice, text in why.items() if text is not COMPUTED}
                lecture.why[arguments["key"]] = reasons
    return found


# The names of the arguments, in the order in which they are passed.
ARGUMENTS = {
    "predict": ("key", "question", "choices"),
    "reveal": ("key", "value", "why"),
    "tally": ("lecture",),
}
# The value of an argument that is not a literal.
COMPUTED = object()


def _calls(cells: Iterable[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the arguments of each call of `predict`, `reveal` and `tally`."""
    for cell in cells:
        with contextlib.suppress(SyntaxError):
            tree = ast.parse(cell["source"] if cell["cell_type"] == "code" else "")
            for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
                name = getattr(call.func, "id", getattr(call.func, "attr", ""))
                if name in ARGUMENTS:
                    nodes = dict(zip(ARGUMENTS[name], call.args, strict=False))
                    nodes |= {word.arg: word.value for word in call.keywords if word.arg}
                    arguments = {argument: _literal(node) for argument, node in nodes.items()}
                    if isinstance(arguments.get(ARGUMENTS[name][0]), str):
                        yield name, arguments


def _literal(node: ast.expr | None) -> Any:
    """Return the value of a literal. A dict may contain values that are not literals."""
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_literal(key): _literal(value) for key, value in pairs}
    try:
        return ast.literal_eval(node) if node else COMPUTED
    except (ValueError, TypeError):
        return COMPUTED


def _add_question(lecture: Lecture, arguments: Mapping[str, Any]) -> None:
    key = arguments["key"]
    lecture.keys.append(key)
    if COMPUTED not in arguments.values():
        with contextlib.suppress(ValueError, KeyError):
            choices, unit = arguments.get("choices"), arguments.get("unit", "")
            lecture.questions[key] = Question.of(key, arguments["question"], choices, unit)


# --- results --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a class guessed about one question.

    Attributes:
        question: the question.
        guesses: the guesses that count: those that were entered before the answer was shown.
        truth: the answer; None if no student has seen it.
        why: what somebody who chose a wrong choice overlooked, by choice.
        empty: the number of students without a guess.
        late: the number of guesses that were entered after the answer was shown.
        other: the number of files with another wording of the question.
    """

    question: Question
    guesses: tuple[Any, ...]
    truth: Any
    why: Mapping[str, str]
    empty: int = 0
    late: int = 0
    other: int = 0

    @property
    def right(self) -> str | None:
        """The right choice; None if there are no choices or no answer."""
        return None if self.truth is None else self.question.right_choice(self.truth)

    @property
    def bars(self) -> list[tuple[str, int]]:
        """Each choice and how many students chose it, in the order of the question."""
        counts = Counter(self.guesses)
        return [(choice, counts[choice]) for choice in self.question.choices]

    @property
    def mistake(self) -> tuple[str, int] | None:
        """The most frequent wrong choice, and how many students chose it."""
        wrong = [(choice, count) for choice, count in self.bars if count and choice != self.right]
        return max(wrong, key=lambda bar: bar[1], default=None) if self.right else None

    @property
    def share(self) -> str:
        """A sentence about how many guesses are right, or close if they are numbers."""
        count = counted(len(self.guesses), "guess", "guesses")
        if self.truth is None or not self.guesses:
            return f"{count}."
        if self.right:
            right = self.guesses.count(self.right)
            return f"{count}, {right / len(self.guesses):.0%} right."
        close = sum(is_close(guess, self.truth) for guess in self.guesses)
        middle = with_unit(median(self.guesses), self.question.unit)
        share = f"{close / len(self.guesses):.0%} of them within 10% of the answer"
        return f"{count}, {share}. The median guess is {middle}."

    @property
    def answer(self) -> str:
        """A sentence with the answer."""
        known = self.truth is not None
        return the_answer(self.question, self.truth) if known else "Nobody has seen the answer yet."

    @property
    def most_often_wrong(self) -> str:
        """A sentence about the most frequent wrong choice; "" if there is none."""
        if not self.mistake:
            return ""
        choice, count = self.mistake
        return f"Most frequent wrong choice: {written(choice)} ({count})."

    @property
    def left_out(self) -> str:
        """A sentence about the files that don't count; "" if all of them count."""
        parts = {
            "without a guess": self.empty,
            "with a guess after the answer was shown": self.late,
            "with another wording of the question": self.other,
        }
        said = [f"{count} {which}" for which, count in parts.items() if count]
        return f"Not counted: {', '.join(said)}." if said else ""

    @property
    def histogram(self) -> Markup:
        """The histogram of guessed numbers as HTML."""
        from course_utils.figures import guess_histogram

        unit = one_line(self.question.unit, 20)
        return Markup(guess_histogram(self.guesses, self.truth, unit)._repr_html_())


def results(
    files: Iterable[Handed], known: Mapping[str, Lecture]
) -> tuple[dict[str, list[Result]], list[str]]:
    """Return the results of each lecture, and a line for each lecture with files left out.

    Args:
        files: the files of the class.
        known: the lectures of the course; if empty, the files may name any lecture.
    """
    given: dict[str, list[Handed]] = defaultdict(list)
    for file in files:
        given[file.lecture].append(file)
    strange = [name for name in given if known and name not in known]
    problems = [
        f"files of lecture {name} were left out: {len(given[name])}, because no lecture of the "
        "course has a tally of this name"
        for name in strange
    ]
    found = {}
    for name in sorted(set(given) - set(strange)):
        found[name], unasked = _of_lecture(given[name], known.get(name, Lecture(name)))
        if unasked:
            problems.append(
                f"guesses of lecture {name} were left out: the lecture has no prediction with the "
                f"key {unasked[0]}" + f" (or {len(unasked) - 1} other keys)" * (len(unasked) > 1)
            )
    return {name: several for name, several in found.items() if several}, problems


def _of_lecture(files: list[Handed], lecture: Lecture) -> tuple[list[Result], list[str]]:
    """Return the results of a lecture, and the keys in the files that the lecture does not have."""
    by_key: dict[str, list[Guess]] = defaultdict(list)
    for file in files:
        for key, guess in file.guesses.items():
            by_key[key].append(guess)
    frequent = sorted(by_key, key=lambda key: -len(by_key[key]))[:MAX_GUESSES]
    keys = [key for key in dict.fromkeys(lecture.keys or frequent) if key in by_key]
    several = [
        _result(by_key[key], lecture.questions.get(key), lecture.why.get(key, {})) for key in keys
    ]
    return several, [key for key in frequent if lecture.keys and key not in keys]


def _result(guesses: list[Guess], asked: Question | None, why: Mapping[str, str]) -> Result:
    """Return the result of one question.

    Args:
        guesses: what each student guessed.
        asked: the question as the lecture asks it; None if most files decide.
        why: what somebody who chose a wrong choice overlooked, by choice.
    """
    question = asked or Counter(guess.question for guess in guesses).most_common(1)[0][0]
    fitting = [guess for guess in guesses if guess.question == question]
    made = [guess for guess in fitting if guess.guess is not None]
    truths = [guess.truth for guess in fitting if guess.truth is not None]
    return Result(
        question,
        tuple(guess.guess for guess in made if not guess.late),
        _typical(truths),
        why,
        empty=len(fitting) - len(made),
        late=sum(guess.late for guess in made),
        other=len(guesses) - len(fitting),
    )


def _typical(truths: list[Any]) -> str | float | None:
    """Return the median of numbers, or the most frequent choice; None if there are no answers."""
    if not truths:
        return None
    if isinstance(truths[0], str):
        return Counter(truths).most_common(1)[0][0]
    return median(truths)


# --- the page -------------------------------------------------------------------------------------


def write_page(path: Path, found: Mapping[str, list[Result]], known: Mapping[str, Lecture]) -> None:
    """Write the results as one HTML page without scripts, which can be projected.

    Raises:
        CourseError: the file can't be written.
    """
    titles = {name: known[name].title if name in known else f"Lecture {name}" for name in found}
    page = page_template("guesses.html.j2", MAX_QUESTION).render(found=found, titles=titles)
    write_text(path, page)


def lines(found: Mapping[str, list[Result]]) -> list[str]:
    """Return a line for each question, for the terminal."""
    return [
        escape_unprintable(
            f"{name} {result.question.key}: {result.share} {result.most_often_wrong}".strip()
        )
        for name, several in found.items()
        for result in several
    ]
