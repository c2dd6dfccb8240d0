"""Every assignment: sound, released as generated, graded right, and not fooled by wrong answers."""

import ast
import contextlib
import functools
import json
import re
import sys
import textwrap

import pytest
import torch

from course_utils import notebooks, values
from course_utils.grading import assignments, release, rules
from course_utils.publishing import notebook_check
from course_utils.publishing.execute import execute
from tests import mutation

ROOT = mutation.ROOT
PATHS = assignments.sources(ROOT)
NAMES = [path.stem for path in PATHS]
every = pytest.mark.parametrize("path", PATHS, ids=NAMES)


@functools.cache
def read(path):
    return assignments.read(path)


@functools.cache
def released(path):
    return assignments.read(ROOT / "exercises" / path.stem / path.name)


# --- sound, and released as generated -------------------------------------------------------------


def test_there_is_an_assignment_for_each_lecture_from_01():
    lectures = [path.stem[:2] for path in notebooks.lectures(ROOT)]
    assert [name[:2] for name in NAMES] == lectures[1:]


@every
def test_it_keeps_to_the_rules(path):
    assert notebook_check.check(path) == []
    assert rules.faults(path) == []


def test_names_of_tasks_are_unique():
    tasks = [task.id for path in PATHS for task in read(path).tasks]
    assert len(set(tasks)) == len(tasks)


def test_exercises_are_what_solutions_give():
    assert release.differences(ROOT) == []


@every
def test_a_release_is_its_solution_without_what_is_marked(path):
    """So a stub is a part of its solution, and nothing of an answer or a hidden test is left."""
    for ours, theirs in zip(read(path).cells, released(path).cells, strict=True):
        assert theirs["source"].rstrip("\n") == unmarked(ours).rstrip("\n"), theirs["id"]


def unmarked(cell):
    """The source of a cell with a stub for its solution, and without hidden tests."""
    code = cell["cell_type"] == "code"
    stub = "# YOUR CODE HERE\nraise NotImplementedError()" if code else "YOUR ANSWER HERE"
    solution = re.compile(r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION", re.S | re.M)
    hidden = re.compile(r"^### BEGIN HIDDEN TESTS\n.*?### END HIDDEN TESTS\n?", re.S | re.M)
    source = solution.sub(lambda found: textwrap.indent(stub, found[1]), cell["source"])
    return hidden.sub("", source)


@every
def test_it_starts_from_its_lecture_and_leads_on(path):
    for cell in (read(path).cells[0], read(path).cells[-1]):
        links = re.findall(r"\]\((\S+?)\)", cell["source"])
        assert any("lectures/" in link for link in links)
        assert all((path.parent / link.partition("#")[0]).exists() for link in links)


@every
def test_each_lecture_leads_to_its_assignment(path):
    (lecture,) = notebooks.lectures(ROOT, path.stem[:2])
    closing = json.loads(lecture.read_text(encoding="utf-8"))["cells"][-1]["source"]
    assert f"(../exercises/{path.stem}/{path.name})" in "".join(closing)


# --- graded ---------------------------------------------------------------------------------------


@functools.cache
def points(path):
    """Points of the solution, of the release as it is, and of mixed right and wrong answers."""
    assignment = read(path)
    untouched = {task.id: None for task in assignment.tasks}
    mixed = mutation.answers(mutation.crossed(assignment))
    return mutation.autograde(path.stem, {"solution": {}, "release": untouched} | mixed, workers=2)


@every
def test_the_solution_scores_everything(path):
    scored = mutation.by_task(read(path), points(path)["solution"])
    assert scored == {task.id: task.points for task in mutation.code_tasks(read(path))}


@every
def test_the_release_scores_nothing(path):
    assert not any(points(path)["release"].values())


@every
def test_the_release_fails_every_check(path):
    """What a student sees who presses Validate first: each graded cell fails, none passes."""
    from nbgrader.validator import Validator

    with mutation.offline():
        result = Validator(invert=True).validate(str(ROOT / "exercises" / path.stem / path.name))
    assert "passed" not in result, [cell["source"] for cell in result["passed"]]


@every
def test_a_wrong_answer_costs_its_own_points_alone(path):
    assignment = read(path)
    for name, replaced in mutation.crossed(assignment).items():
        assert mutation.complaints(assignment, points(path)[name], replaced) == []


@every
def test_each_task_has_wrong_and_right_answers_to_try(path):
    tasks = [task.id for task in mutation.code_tasks(read(path))]
    files = (mutation.MUTANTS / path.stem).iterdir()
    assert sorted(file.stem for file in files if file.suffix) == sorted(tasks)
    for task in tasks:
        found = mutation.mutants(path.stem, task)
        kinds = [mutant.kind for mutant in found]
        assert kinds.count("right") >= 2 and kinds.count("wrong") >= 4, task
        for what in ("name", "says", "source"):
            told = [getattr(mutant, what) for mutant in found]
            assert len(set(told)) == len(told), f"{task}: one {what} stands twice"


@pytest.mark.slow
@every
def test_every_wrong_answer_is_caught_and_every_right_one_isnt_by_both_graders(path):
    assignment = read(path)
    submissions = mutation.alone(assignment)
    scored = mutation.graded(assignment, submissions, workers=2)
    assert scored == mutation.graded(assignment, submissions, workers=2, stock=True)
    found = [
        mutation.complaints(assignment, scored[name], submissions[name]) for name in submissions
    ]
    assert sum(found, []) == []


@pytest.mark.slow
@every
def test_grading_takes_less_than_a_minute_and_a_gigabyte(path, tmp_path):
    with mutation.offline():
        run = execute(path, tmp_path, progress=False)
    assert run.error is None
    assert run.seconds < 60 and run.peak_memory < 1e9


# --- judged by another process --------------------------------------------------------------------


class StandIn:
    """A student's function or object as another process has it: bytes go out, bytes come back."""

    def __init__(self, target, withheld):
        self._target, self._withheld = target, withheld
        self.__name__ = getattr(target, "__name__", "object")

    def __call__(self, *args, **kwargs):
        args, kwargs = values.decode(values.encode((args, kwargs)))
        with without(self._withheld):
            came = self._target(*args, **kwargs)
        if isinstance(self._target, type):
            return StandIn(came, self._withheld)
        return values.decode(values.encode(came))

    def __getattr__(self, name):
        method = getattr(self._target, name)
        assert callable(method), f"{name} is no method: it would not cross"
        return StandIn(method, self._withheld)


@contextlib.contextmanager
def without(modules):
    """Importing one of these fails, as it does where students' answers are graded."""
    kept = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(dict.fromkeys(modules))
    try:
        yield
    finally:
        for name, module in kept.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})


@every
def test_its_checks_judge_plain_values_from_elsewhere(path, monkeypatch):
    """Student's cells without the withheld modules, checks with stand-ins for the answers."""
    monkeypatch.chdir(path.parent)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors are slower with more
    try:
        judge(read(path))
    finally:
        torch.set_num_threads(threads)


def judge(assignment):
    """Run the student's cells in one namespace, the graded ones in another, with stand-ins."""
    theirs, ours = {"__name__": "student"}, {"__name__": "judge"}
    for cell in assignment.cells:
        if cell["cell_type"] != "code":
            continue
        if not assignments.is_graded(cell):
            with without(assignment.withheld):
                exec(compile(cell["source"], cell["id"], "exec"), theirs)
        else:
            task = next(task for task in assignment.tasks if cell in task.checks)
            for name in assignments.top_level(task.answer["source"], ast.FunctionDef, ast.ClassDef):
                ours[name] = StandIn(theirs[name], assignment.withheld)
            exec(compile(cell["source"], cell["id"], "exec"), ours)
