"""Ask students about their own answers: questions for a talk of five minutes.

The questions are made from the syntax tree of the student's own code, from the student's texts, and
from the messages of failed checks, so they are the same in each run. A question is about code that
the student wrote, and it makes sense for any code of its form. No code is executed and no answer is
computed: whoever asks has to judge the answers.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from course_utils.machine.files import write_atomically
from workshop.grading.answers import Answers, numbered, parsed
from workshop.grading.assignments import Assignment, Task
from workshop.grading.pages import block, one_line, page_template
from workshop.grading.records import Record
from workshop.grading.safe_files import escape_unprintable

# The number of questions for a student.
QUESTIONS = 5
# Maximum length of quoted code, in characters. Longer code is hard to talk about.
MAX_QUOTE = 60
# Maximum length of a question, in characters.
MAX_QUESTION = 500
# What a question may be about, the best first.
KINDS = (
    *("check", "text", "divisor", "boundary", "rounding", "default", "slice", "shape", "end"),
    *("guard", "filter", "limit", "without", "sorted", "number", "loop"),
)

OTHER_ORDER = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
}
# Methods with which one avoids a division by zero.
GUARDS = {"where", "clamp", "clamp_min", "clip"}
# Methods that change a tensor or a model, but not its shape.
CONVERSIONS = {"clone", "detach", "double", "eval", "float", "half", "long", "requires_grad_", "to"}
# Numbers whose meaning is obvious.
PLAIN_NUMBERS = {0, 1, 2}


@dataclass(frozen=True)
class Question:
    """A question about a student's answer.

    Attributes:
        line: the line of the answer that the question is about; 0 if there is no such line.
        text: the question, which may contain text of the student.
    """

    task: Task
    kind: str
    line: int
    text: str


def questions(
    release: Assignment, answers: Answers, record: Record, first: Collection[str] = ()
) -> list[Question]:
    """Return at most QUESTIONS questions about a student's answers, in the order of the notebook.

    The questions are about many things and many tasks: no kind and no task is repeated before the
    others.
    """
    candidates = [
        question
        for task in release.tasks
        if task.id in answers
        for question in _candidates(task, answers[task.id], record)
    ]
    chosen: list[Question] = []
    kinds: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    while candidates and len(chosen) < QUESTIONS:

        def rank(question: Question) -> tuple[int, int, bool, int]:
            name = question.task.id
            is_late = name not in first
            return kinds[question.kind], tasks[name], is_late, KINDS.index(question.kind)

        best = min(candidates, key=rank)
        candidates.remove(best)
        chosen.append(best)
        kinds[best.kind] += 1
        tasks[best.task.id] += 1
    order = [task.id for task in release.tasks]
    return sorted(chosen, key=lambda question: (order.index(question.task.id), question.line))


def _candidates(task: Task, source: str, record: Record) -> Iterator[Question]:
    for cell in task.checks:
        if message := record.messages.get(cell["id"]):
            yield Question(task, "check", 0, _about_check(message))
    if task.answer["cell_type"] != "code":
        yield from (Question(task, "text", 0, text) for text in _about_text(source))
    elif tree := parsed(source):
        # A hostile answer may be nested too deeply, or contain a number that is too long to print.
        with contextlib.suppress(RecursionError, ValueError):
            for node in _own(tree, source.splitlines(), task.answer["source"]):
                for kind, text in itertools.chain.from_iterable(about(node) for about in ABOUT):
                    if all(len(code) <= MAX_QUOTE for code in re.findall("`(.*?)`", text)):
                        yield Question(task, kind, node.lineno, text)


def _about_check(message: str) -> str:
    """Return a question about a failed check, without the likely mistake that the check names."""
    said = re.split(r"\n +likely ", block(message))[0]
    said = re.sub(r"\ANot right yet[^:\n]*: ", "", said)
    return f"A check says: “{one_line(said)}”. Which line is the reason? What would you change?"


def _about_text(source: str) -> Iterator[str]:
    """Yield questions about the sentences of a text that contain a number."""
    for sentence in re.split(r"(?<=[.!?])\s+|\n", re.sub("<!--.*?-->", "", source)):
        if (
            re.search(r"(?<!\w)\d", sentence)
            and "|" not in sentence
            and 4 < len(sentence.split()) < 40
        ):
            yield f"You wrote: “{one_line(sentence)}” How do you know, or how did you compute it?"


# --- questions about code -------------------------------------------------------------------------

# The kind and the text of a question.
Text = tuple[str, str]


def _own(node: ast.AST, lines: list[str], given: str) -> Iterator[ast.expr | ast.stmt]:
    """Yield the nodes that the student wrote, without annotations and error messages."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "msg", "exc"):
            continue
        for child in value if isinstance(value, list) else [value]:
            is_statement = isinstance(child, ast.stmt)
            if is_statement and "\n".join(lines[child.lineno - 1 : child.end_lineno]) in given:
                continue
            if is_statement or isinstance(child, ast.expr):
                yield child
            if isinstance(child, ast.AST):
                yield from _own(child, lines, given)


def _about_conditions(node: ast.AST) -> Iterator[Text]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in OTHER_ORDER:
            this, other = OTHER_ORDER[type(op)]
            are_values = _has_name(node.left) and _has_name(node.comparators[0])
            yield (
                "boundary" if are_values else "limit",
                f"The condition is `{_code(node)}`. What would change if `{this}` were `{other}`? "
                "Give an input that shows the difference.",
            )
        case ast.If(test=test, body=[ast.Raise()], orelse=[]):
            yield (
                "guard",
                f"Give a call for which `{_code(test)}` is true. What would your function do with "
                "this call if the check were missing?",
            )
        case ast.While():
            yield "end", f"How do you know that the loop `while {_code(node.test)}` ends?"
        case ast.For(target=target, iter=values):
            yield (
                "loop",
                f"Choose an input. How often does the loop over `{_code(values)}` run, and what is "
                f"`{_code(target)}` in the second round?",
            )


def _about_numbers(node: ast.AST) -> Iterator[Text]:
    match node:
        case ast.BinOp(op=ast.Div() | ast.FloorDiv(), right=divisor) if _has_name(
            divisor
        ) and not _is_path(node):
            yield "divisor", _about_divisor(divisor)
        case (
            ast.Call(func=ast.Attribute(attr="ceil"))
            | ast.UnaryOp(
                op=ast.USub(), operand=ast.BinOp(left=ast.UnaryOp(op=ast.USub()), op=ast.FloorDiv())
            )
        ):
            how = (
                "is rounded up. Give an input for which rounding down would be wrong, and say why."
            )
            yield "rounding", f"`{_code(node)}` {how}"
    match node:
        case ast.BinOp(left=ast.Constant(value=value)) | ast.BinOp(right=ast.Constant(value=value)):
            if type(value) in (int, float) and value not in PLAIN_NUMBERS and _has_name(node):
                yield (
                    "number",
                    f"Why {value!r} in `{_code(node)}`? Where does this number come from?",
                )


def _about_divisor(divisor: ast.expr) -> str:
    match divisor.value if isinstance(divisor, ast.Subscript) else divisor:
        case ast.Call(func=ast.Attribute(value=plain, attr=method)) if method in GUARDS:
            return (
                f"You divide by `{_code(divisor)}` and not by `{_code(plain)}` alone. For which "
                "input does this make a difference, and what would happen?"
            )
    return (
        f"You divide by `{_code(divisor)}`. For which input is this 0, and what happens then? If "
        "there is no such input, why?"
    )


def _about_tensors(node: ast.AST) -> Iterator[Text]:
    match node:
        case ast.Subscript(value=value, slice=ast.Slice() as part, ctx=ast.Load()):
            bounds = [bound for bound in (part.lower, part.upper, part.step) if bound]
            if any(map(_has_name, bounds)):
                what = "What does this leave out, and for which input does it leave out nothing?"
                yield "slice", f"`{_code(node)}`: {what}"
            elif bounds and isinstance(value, ast.Name | ast.Attribute):
                what = f"Which elements are these if `{_code(value)}` has five?"
                yield "slice", f"`{_code(node)}`: {what}"
        case ast.Subscript(slice=ast.Tuple(elts=parts)) if any(_is_none(part) for part in parts):
            what = "Which shape does this have, and what would go wrong without the `None`?"
            yield "shape", f"`{_code(node)}`: {what}"
        case ast.Call(keywords=[*_, ast.keyword(arg="keepdim", value=ast.Constant(value=True))]):
            what = "Which shape does this have? What would change without `keepdim=True`?"
            yield "shape", f"`{_code(node)}`: {what}"
        case ast.Call(keywords=[*_, ast.keyword(arg="dim", value=ast.Constant(value=int(dim)))]):
            what = f"Which shape does this have? What would `dim={int(dim == 0)}` compute instead?"
            yield "shape", f"`{_code(node)}`: {what}"


def _about_values(node: ast.AST) -> Iterator[Text]:
    match node:
        case ast.Assign(value=ast.BoolOp(op=ast.Or()) as value):
            yield "default", f"`{_code(value)}`: for which input is the part after `or` used?"
        case ast.Call(func=ast.Attribute(attr="get"), args=[_, default]):
            when = "Is it also used if the value is None?"
            yield "default", f"`{_code(node)}`: when is `{_code(default)}` used? {when}"
        case ast.Call(func=ast.Name(id="sorted"), args=[values]):
            yield "sorted", f"What would change if `{_code(node)}` were `{_code(values)}` alone?"
        case ast.With(items=[ast.withitem(context_expr=ast.Call() as call)]):
            yield "without", f"What would change without `with {_code(call)}`?"
        case ast.Call(func=ast.Attribute(value=value, attr=method)) if method in CONVERSIONS:
            yield (
                "without",
                f"What would change if `{_code(node)}` were `{_code(value)}` alone? When would you "
                "notice?",
            )
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            for test in (test for generator in node.generators for test in generator.ifs):
                yield (
                    "filter",
                    f"Only elements with `{_code(test)}` are used. Give an input for which one is "
                    "left out.",
                )


ABOUT = (_about_conditions, _about_numbers, _about_tensors, _about_values)


def _code(node: ast.AST) -> str:
    return ast.unparse(node)


def _has_name(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Name) for part in ast.walk(node))


def _is_path(node: ast.AST) -> bool:
    """Return whether a division probably joins the parts of a path."""
    return bool(re.search(r"path|folder|['\"]", _code(node).casefold()))


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


# --- the page -------------------------------------------------------------------------------------


def write_page(
    path: Path,
    release: Assignment,
    answers: Mapping[str, Answers],
    records: Iterable[Record],
    first: Mapping[str, Collection[str]],
) -> None:
    """Write a page with the questions and the answers they are about, for each student.

    The page is for the instructor only, because it shows hidden checks.
    """
    students = []
    for record in records:
        written = answers.get(record.student, {})
        asked = questions(release, written, record, first.get(record.student, ()))
        tasks = {question.task.id: question.task for question in asked}
        students.append(
            {
                "name": escape_unprintable(record.student),
                "questions": asked,
                "answers": [
                    (task, numbered(written[name], task.answer["source"]))
                    for name, task in tasks.items()
                ],
            }
        )
    page = page_template("talk.html.j2", MAX_QUESTION).render(release=release, students=students)
    write_atomically(path, page.encode(), alone=True)
