"""Create answers that are right only for inputs that they know, as a table of answers would be.

    answers(assignment, known_calls(assignment), "raise")

Such an answer contains the solution, but it first looks up its inputs among the known ones. For
other inputs, it does what a table could do: it raises a ValueError, or it returns the value of the
first known call.
"""

from __future__ import annotations

import ast
import base64
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from course_utils.exercise import checks, values
from course_utils.exercise.checks import HIDDEN
from tests.mutation import Answers, code_tasks
from workshop.grading.assignments import Assignment, Task, top_level

# What a table does for inputs that it doesn't know.
FALLBACKS = ("raise", "first")

# A call is a method's name ("" for a function or a class), and its arguments. What a method returns
# depends on all earlier calls of its object.
Call = tuple[str, tuple[Any, ...], dict[str, Any]]


@dataclass
class Known:
    """The known calls of one function or class.

    Attributes:
        calls: the digests of the known calls.
        first: the value of the first known call by the method's name, encoded as text.
    """

    calls: set[str] = field(default_factory=set)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, calls: list[Call], value: Any) -> None:
        """Add a call, which is the last of an object's calls, and its value."""
        self.calls.add(digest(calls))
        encoded = base64.b64encode(values.encode(value)).decode()
        self.first.setdefault(calls[-1][0], encoded)


# --- these two functions are also part of the answers ---------------------------------------------


def digest(calls: list[Call]) -> str:
    """Return a digest of calls. The names of temporary folders don't matter."""
    import hashlib
    import re

    from course_utils.exercise import values

    def plain(value: Any) -> Any:
        return re.sub(r"\A/.*/tmp\w+", "", value) if isinstance(value, str) else value

    simple = [
        (name, [plain(arg) for arg in args], {key: plain(arg) for key, arg in kwargs.items()})
        for name, args, kwargs in calls
    ]
    return hashlib.sha256(values.encode(simple)).hexdigest()


def wrapped(answer: Any, reply: Callable[[list[Call], Callable[[], Any]], Any]) -> Any:
    """Return a function or a class in place of `answer`.

    Args:
        answer: the function or the class.
        reply: a function that answers a call. It gets all calls of the same object, of which the
            last one is to be answered, and a function that makes the call.
    """

    def function(*args: Any, **kwargs: Any) -> Any:
        return reply([("", args, kwargs)], lambda: answer(*args, **kwargs))

    class Object:
        def __init__(self, *args: Any, **kwargs: Any):
            self.calls = [("", args, kwargs)]
            self.inner = reply(self.calls, lambda: answer(*args, **kwargs))

        def __getattr__(self, name: str) -> Any:
            return Method(self, name)

    class Method:
        """A method of an object, or of one of its attributes: the path is "B.data.mul_"."""

        def __init__(self, owner: Any, path: str):
            self.owner, self.path = owner, path

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return Method(self.owner, f"{self.path}.{name}")

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            import operator

            self.owner.calls.append((self.path, args, kwargs))
            method = operator.attrgetter(self.path)
            return reply(self.owner.calls, lambda: method(self.owner.inner)(*args, **kwargs))

    return Object if isinstance(answer, type) else function


# --- known calls and answers ----------------------------------------------------------------------


def known_calls(assignment: Assignment, seed: int | None = None) -> dict[str, Known]:
    """Run the tests of an assignment, and return the calls that they make, by the answer's name.

    Args:
        assignment: the assignment.
        seed: the seed of the submission whose hidden tests are run as well; default: only the
            visible tests are run.
    """
    namespace, known = solved(assignment), {}
    for task in code_tasks(assignment):
        for name in names_of(task):
            known[name] = Known()
            namespace[name] = wrapped(namespace[name], recorder(known[name]))
    before, checks.submission_seed = checks.submission_seed, seed or 0
    try:
        for task in code_tasks(assignment):
            for cell in task.checks:
                visible = cell["source"].partition(HIDDEN)[0]
                exec(visible if seed is None else cell["source"], dict(namespace))
    finally:
        checks.submission_seed = before
    return known


def solved(assignment: Assignment) -> dict[str, Any]:
    """Return the namespace of a notebook after its imports and the solution's answers have run."""
    namespace: dict[str, Any] = {}
    imports = [cell["source"] for cell in assignment.cells if cell.get("id") == "imports"]
    for source in [*imports, *(task.answer["source"] for task in code_tasks(assignment))]:
        exec(source, namespace)
    return namespace


def recorder(known: Known) -> Callable[[list[Call], Callable[[], Any]], Any]:
    """Return a function for `wrapped` that adds each call to `known`."""

    def reply(calls: list[Call], call: Callable[[], Any]) -> Any:
        try:
            value = call()
        except Exception:
            known.calls.add(digest(calls))
            raise
        try:
            known.add(calls, value)
        except TypeError:
            # The call has created an object.
            known.calls.add(digest(calls))
        return value

    return reply


def names_of(task: Task) -> set[str]:
    """Return the names of the functions and classes that the answer to a task defines."""
    return top_level(task.answer["source"], ast.FunctionDef, ast.ClassDef)


TABLE = """
from collections.abc import Callable
from typing import Any

Call = tuple

{digest}

{wrapped}

def table(known, first, fallback):
    import base64

    from course_utils.exercise import values

    def reply(calls, call):
        if digest(calls) in known:
            return call()
        if fallback == "raise":
            raise ValueError("this input isn't in the table")
        if calls[-1][0] not in first:
            return None
        return values.decode(base64.b64decode(first[calls[-1][0]]))

    return reply
"""


def answers(assignment: Assignment, known: dict[str, Known], fallback: str) -> Answers:
    """Return the answers of a submission that knows some calls and nothing else.

    Args:
        assignment: the assignment.
        known: the known calls by the answer's name.
        fallback: one of FALLBACKS, for calls that are not known.
    """
    functions = {"digest": inspect.getsource(digest), "wrapped": inspect.getsource(wrapped)}
    code = TABLE.format(**functions)
    found: Answers = {}
    for task in code_tasks(assignment):
        lines = [
            f"{name} = wrapped({name}, table({known[name].calls!r}, {known[name].first!r}, "
            f"{fallback!r}))"
            for name in sorted(names_of(task))
        ]
        found[task.id] = "\n".join([task.answer["source"], code, *lines])
    return found
