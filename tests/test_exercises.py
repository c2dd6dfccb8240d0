"""Test each assignment: its rules, its release, and the points of right and wrong answers."""

import functools
import linecache
import re
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from course_utils.exercise import checks
from course_utils.machine import notebooks
from course_utils.machine.execution import execute
from tests import expected, mutation, rules, tables
from workshop.grading import assignments, classroom, release
from workshop.publishing import notebook_check

ROOT = mutation.ROOT
PATHS = assignments.sources(ROOT)
NAMES = [path.stem for path in PATHS]
# The solutions of these exercises train or export models, which needs many seconds.
HEAVY = ("07_qlora", "09_export")


def each_path(heavy=(), others=()):
    """Return a decorator that runs a test for each assignment, with these additional marks.

    All tests of an assignment run in the same process, which grades the assignment only once.
    """
    return pytest.mark.parametrize(
        "path",
        [
            pytest.param(
                path,
                id=path.stem,
                marks=[
                    pytest.mark.xdist_group(path.stem),
                    *(heavy if path.stem in HEAVY else others),
                ],
            )
            for path in PATHS
        ],
    )


every = each_path()
light = each_path(heavy=[pytest.mark.slow])
variants = each_path(heavy=[pytest.mark.slow], others=[pytest.mark.full])


@functools.cache
def read(path):
    return assignments.read(path)


@functools.cache
def released(path):
    return assignments.read(ROOT / "exercises" / path.stem / path.name)


# --- rules and releases ---------------------------------------------------------------------------


def test_there_is_an_assignment_for_each_lecture_from_01():
    lectures = [path.stem[:2] for path in notebooks.lectures(ROOT)]
    assert [name[:2] for name in NAMES] == lectures[1:]


@every
def test_the_solution_violates_no_rule(path):
    assert notebook_check.check(path) == []
    assert rules.violations(path) == []


def test_ids_of_tasks_are_unique():
    tasks = [task.id for path in PATHS for task in read(path).tasks]
    assert len(set(tasks)) == len(tasks)


def test_exercises_are_generated_from_solutions():
    assert release.differences(ROOT) == []


@every
def test_a_release_is_the_solution_without_answers_and_hidden_tests(path):
    for cell, release_cell in zip(read(path).cells, released(path).cells, strict=True):
        expected = without_regions(cell).rstrip("\n")
        assert release_cell["source"].rstrip("\n") == expected, cell["id"]


def without_regions(cell):
    """Return the source of a cell with a stub for its solution and without hidden tests."""
    code = cell["cell_type"] == "code"
    stub = "# YOUR CODE HERE\nraise NotImplementedError()" if code else "YOUR ANSWER HERE"
    solution = re.compile(r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION", re.S | re.M)
    hidden = re.compile(r"^### BEGIN HIDDEN TESTS\n.*?### END HIDDEN TESTS\n?", re.S | re.M)
    source = solution.sub(lambda match: textwrap.indent(stub, match[1]), cell["source"])
    return hidden.sub("", source)


# --- points ---------------------------------------------------------------------------------------

MAIN = ("solution", "release")
VARIANTS = ("crossed-1", "crossed-2", *(f"table-{name}" for name in (*tables.FALLBACKS, "other")))


def graded(path, names):
    """Return `grade` of these submissions, or of all of them if that needs less than a minute."""
    return grade(path, names if path.stem in HEAVY else MAIN + VARIANTS)


@functools.cache
def grade(path, names):
    """Grade submissions in one run; return their points, and the cells of the graded solution."""
    assignment = read(path)
    answers = {"solution": {}, "release": {task.id: None for task in assignment.tasks}}
    if VARIANTS[0] in names:
        answers |= mutation.answers_of(mutation.crossed(assignment))
        visible = tables.known_calls(assignment)
        for fallback in tables.FALLBACKS:
            answers[f"table-{fallback}"] = tables.answers(assignment, visible, fallback)
        # Not even all inputs and answers of a submission help another one.
        known = tables.known_calls(assignment, seed=1)
        answers["table-other"] = tables.answers(assignment, known, "raise")
    answers = {name: answers[name] for name in names}
    with tempfile.TemporaryDirectory() as folder, mutation.offline():
        course = mutation.hand_in(path.stem, answers, Path(folder))
        records = classroom.grade(course, path.stem, workers=2).records
        solved = course / "autograded" / "solution" / path.stem / path.name
        cells = notebooks.load(solved)["cells"] if solved.exists() else []
    return {record.student: record.points for record in records}, cells


@pytest.mark.full
@every
def test_the_solution_gets_all_points_and_prints_the_expected_outputs(path):
    points, solved = graded(path, MAIN)
    scored = mutation.by_task(read(path), points["solution"])
    assert scored == {task.id: task.points for task in mutation.code_tasks(read(path))}
    texts = expected.texts(solved)
    cells = {cell["id"]: cell["source"] for cell in read(path).cells}
    assert texts == {name: cells.get(name) for name in texts}


@pytest.mark.full
@every
def test_the_release_gets_no_points(path):
    points, _ = graded(path, MAIN)
    assert not any(points["release"].values())


@variants
def test_a_table_of_known_answers_gets_no_points(path):
    points, _ = graded(path, VARIANTS)
    tables = {name: each for name, each in points.items() if name.startswith("table-")}
    assert len(tables) == 3
    assert {name for name, each in tables.items() if any(each.values())} == set()


@variants
def test_a_wrong_answer_loses_points_only_at_its_own_task(path):
    points, _ = graded(path, VARIANTS)
    for name, replaced in mutation.crossed(read(path)).items():
        assert mutation.problems(read(path), points[name], replaced) == []


@pytest.mark.full
@light
def test_each_hidden_check_has_a_hint_or_can_be_tried_again(path, monkeypatch):
    """A student who fails a hidden check learns the likely mistake, or the call with its inputs."""
    unexplained = set()

    def explained(method):
        def checked(check, *args, **kwargs):
            frame = sys._getframe(1)
            cell, line = frame.f_code.co_filename, frame.f_lineno
            has_hint = kwargs.get("likely") or check._code
            if not has_hint and checks._is_hidden_line(cell, line):
                unexplained.add((cell, linecache.getline(cell, line).strip()))
            return method(check, *args, **kwargs)

        return checked

    for name in ("gives", "like", "raises", "that"):
        monkeypatch.setattr(checks.Check, name, explained(getattr(checks.Check, name)))
    namespace = tables.solved(read(path))
    for task in mutation.code_tasks(read(path)):
        for cell in task.checks:
            # `checks` recognizes the code of a cell by the name of its file.
            file, lines = f"ipykernel/{cell['id']}", cell["source"].splitlines(keepends=True)
            monkeypatch.setitem(linecache.cache, file, (len(cell["source"]), None, lines, file))
            exec(compile(cell["source"], file, "exec"), dict(namespace))
    assert unexplained == set()


@every
def test_each_task_has_right_and_wrong_answers(path):
    tasks = [task.id for task in mutation.code_tasks(read(path))]
    files = (mutation.MUTANTS / path.stem).iterdir()
    assert sorted(file.stem for file in files if file.suffix) == sorted(tasks)
    for task in tasks:
        found = mutation.mutants(path.stem, task)
        kinds = [mutant.kind for mutant in found]
        assert kinds.count("right") >= 2 and kinds.count("wrong") >= 4, task
        for attribute in ("name", "description", "source"):
            values = [getattr(mutant, attribute) for mutant in found]
            assert len(set(values)) == len(values), f"{task}: two answers have the same {attribute}"


@pytest.mark.slow
@every
def test_both_graders_give_all_points_to_right_answers_and_not_to_wrong_ones(path):
    assert mutation.trial(path, workers=2).problems == []


@pytest.mark.slow
@every
def test_a_solution_runs_in_less_than_a_gigabyte(path, tmp_path):
    with mutation.offline():
        run = execute(path, tmp_path)
    assert run.error is None and run.peak_memory < 1e9
