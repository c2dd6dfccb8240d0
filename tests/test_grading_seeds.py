"""Test the seeds of hidden tests: each attempt has its own inputs, and a regrade has the same."""

import hashlib
import os
import random

import pytest

from course_utils.exercise import checks
from course_utils.machine import notebooks
from course_utils.machine.validation import CourseError
from tests import assignment, mutation, sums
from workshop.grading import classroom, records, seeds
from workshop.grading.records import Record
from workshop.grading.spec import Submission

NAME = assignment.NAME


def seed_of(folder, student="ada", notebook=b"{}", name=NAME, files=(), before=None):
    submission = Submission(student, notebook, dict(files))
    return seeds.seed(seeds.class_key(folder), name, submission, before)


def test_each_student_attempt_and_assignment_has_its_own_seed(tmp_path):
    one = b"1"
    joined = b"{}" + hashlib.sha256(b"a.py").digest() + hashlib.sha256(one).digest()
    drawn = [
        seed_of(tmp_path),
        # A file beside the notebook and the same bytes at the end of the notebook differ.
        seed_of(tmp_path, files={"a.py": one}),
        seed_of(tmp_path, notebook=joined),
        seed_of(tmp_path, student="bob"),
        seed_of(tmp_path, notebook=b"[]"),
        seed_of(tmp_path, name="03_lora"),
        # The answers may be in a module, which the notebook imports.
        seed_of(tmp_path, files={"answers.py": b"1"}),
        seed_of(tmp_path, files={"answers.py": b"2"}),
        seed_of(tmp_path, files={"other.py": b"2"}),
    ]
    assert len(set(drawn)) == len(drawn)
    assert drawn[0] == seed_of(tmp_path)


def test_two_classes_have_different_seeds(tmp_path):
    assert seed_of(tmp_path / "a") != seed_of(tmp_path / "b")


def test_only_the_owner_can_read_the_key(tmp_path):
    seed_of(tmp_path)
    assert (tmp_path / "grading" / seeds.KEY).stat().st_mode & 0o077 == 0


def test_the_seed_in_the_record_survives_the_loss_of_the_key(tmp_path):
    seed = seed_of(tmp_path)
    record = Record(NAME, "ada", attempt=Submission("ada", b"{}").attempt, seed=seed)
    (tmp_path / "grading" / seeds.KEY).unlink()
    assert seed_of(tmp_path) != seed
    assert seed_of(tmp_path, before=record) == seed
    assert seed_of(tmp_path, notebook=b"[]", before=record) != seed


def test_two_first_runs_at_once_get_the_same_key(tmp_path, monkeypatch):
    link = os.link

    def slow_link(source, target):
        (tmp_path / "grading" / seeds.KEY).write_bytes(b"k" * seeds.KEY_SIZE)
        link(source, target)

    monkeypatch.setattr(os, "link", slow_link)
    assert seeds.class_key(tmp_path) == seeds.class_key(tmp_path) == b"k" * seeds.KEY_SIZE


def test_a_key_that_cannot_be_read_is_one_clear_error(tmp_path):
    (tmp_path / "grading" / seeds.KEY).mkdir(parents=True)
    with pytest.raises(CourseError, match=r"grading/inputs\.key can't be read or created"):
        seed_of(tmp_path)


def test_inputs_depend_on_the_seed_of_the_submission_and_on_the_number(monkeypatch):
    drawn = {checks.seed(1), checks.seed(2)}
    monkeypatch.setattr(checks, "submission_seed", 7)
    drawn |= {checks.seed(1), checks.seed(2)}
    assert len(drawn) == 4
    assert checks.seed(1) == checks.seed(1)
    assert random.Random(checks.seed(1)).random() == random.Random(checks.seed(1)).random()


ECHO = "def add(numbers):\n    print(numbers)\n    return sum(numbers) if len(numbers) else 1 / 0\n"


@pytest.mark.full
def test_hidden_inputs_differ_between_students_and_not_between_gradings(tmp_path):
    """Both graders test a notebook with the same inputs, as often as it is graded."""
    folder = sums.course(tmp_path / "course")
    for student in ("ada", "bob"):
        sums.hand_in(folder, student, {"sum-all": ECHO})
    classroom.grade(folder, NAME)
    first = {student: inputs(folder, student) for student in ("ada", "bob")}
    assert len(first["ada"]) == 5 and first["ada"] != first["bob"]
    seeds_before = {r.student: r.seed for r in records.read_all(folder / "grading" / NAME)}
    classroom.grade(folder, NAME, again=True)
    assert {student: inputs(folder, student) for student in first} == first
    assert seeds_before == {r.student: r.seed for r in records.read_all(folder / "grading" / NAME)}
    mutation.autograde(folder, NAME)
    assert {student: inputs(folder, student) for student in first} == first


def inputs(folder, student):
    """Return the lines that the function printed during the hidden tests of its values."""
    path = folder / "autograded" / student / NAME / f"{NAME}.ipynb"
    cells = {cell.get("id"): cell for cell in notebooks.load(path)["cells"]}
    outputs = cells["sum-all-values"]["outputs"]
    return "".join("".join(o.get("text", "")) for o in outputs).splitlines()[1:]
