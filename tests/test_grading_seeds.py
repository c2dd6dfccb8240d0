"""Test the seeds of hidden tests: each attempt has its own inputs, and a regrade has the same."""

import random

import pytest

from course_utils import checks
from course_utils.grading import seeds
from course_utils.grading.results import records
from course_utils.grading.spec import Submission
from course_utils.validation import CourseError
from tests import assignment

NAME = assignment.NAME


def seed_of(folder, student="ada", notebook=b"{}", name=NAME):
    return seeds.with_seed(Submission(student, notebook), folder, name).seed


def test_each_student_attempt_and_assignment_has_its_own_seed(tmp_path):
    drawn = [
        seed_of(tmp_path),
        seed_of(tmp_path, student="bob"),
        seed_of(tmp_path, notebook=b"[]"),
        seed_of(tmp_path, name="03_lora"),
    ]
    assert len(set(drawn)) == 4
    assert drawn[0] == seed_of(tmp_path)


def test_two_classes_have_different_seeds(tmp_path):
    assert seed_of(tmp_path / "a") != seed_of(tmp_path / "b")


def test_only_the_owner_can_read_the_key(tmp_path):
    seed_of(tmp_path)
    assert (tmp_path / "grading" / seeds.KEY).stat().st_mode & 0o077 == 0


def test_the_seed_in_the_record_survives_the_loss_of_the_key(tmp_path):
    seed = seed_of(tmp_path)
    attempt = Submission("ada", b"{}").attempt
    record = records.Record(NAME, "ada", records.GRADED, attempt=attempt, seed=seed)
    record.write(tmp_path / "grading" / NAME)
    (tmp_path / "grading" / seeds.KEY).unlink()
    assert seed_of(tmp_path) == seed
    assert seed_of(tmp_path, notebook=b"[]") != seed


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
