"""Test `nbgrader autograde`, which formgrader also uses, with this course's settings."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest

from tests import mutation, sums
from tests.sandboxes import QUICK, needed
from tests.sums import NAME, RIGHT, WRONG
from workshop.grading import classroom, plugins, records, release
from workshop.grading.records import UNGRADABLE

pytestmark = [
    needed,
    # SQLAlchemy warns about objects that nbgrader's own autograding adds later.
    pytest.mark.filterwarnings("ignore:Object of type <Submitted"),
    pytest.mark.xdist_group("plugins"),
]

FORGED = RIGHT | {
    "sum-squares": "class Yes(int):\n    def __eq__(self, other): return True\n"
    "    def __format__(self, spec): return '50'\n"
    "def squares(numbers):\n    return Yes(1)\n"
}


@pytest.fixture
def course(tmp_path):
    yield sums.course(tmp_path / "course")
    plugins.close_servers()


def handed_in(course, secret):
    """Hand in right, wrong and broken submissions, and submissions with links to a secret."""
    for student, answers in {"right": RIGHT, "wrong": WRONG, "forged": FORGED, "none": {}}.items():
        sums.hand_in(course, student, answers)
    sums.hand_in(course, "broken").write_text('{"cells": 5}', encoding="utf-8")
    huge = json.dumps(
        {"cells": [{"cell_type": "code", "source": "#" * 9, "metadata": {}}] * 90_000}
    )
    sums.hand_in(course, "huge").write_text(huge, encoding="utf-8")
    lost = nbformat.read(sums.hand_in(course, "no-metadata", RIGHT), as_version=4)
    for cell in lost.cells:
        cell.metadata = {}
    nbformat.write(lost, course / "submitted" / "no-metadata" / NAME / f"{NAME}.ipynb")
    # A link to another student's notebook got this student's points if a second notebook was there.
    thief = sums.hand_in(course, "thief", {})
    (thief.parent / "empty.ipynb").write_bytes(thief.read_bytes())
    thief.unlink()
    thief.symlink_to(course / "submitted" / "right" / NAME / f"{NAME}.ipynb")
    # Other names than nbgrader expects, beside students whose notebooks have the right name.
    for student, name in {"copy": f"Copy of {NAME}.ipynb", "text": f"{NAME}.ipynb.txt"}.items():
        path = sums.hand_in(course, student, RIGHT)
        path.rename(path.with_name(name))
    nested = sums.hand_in(course, "nested", RIGHT)
    (nested.parent / "work").mkdir()
    nested.rename(nested.parent / "work" / nested.name)
    sums.hand_in(course, "nothing").unlink()
    files = sums.hand_in(course, "files", RIGHT).parent
    (files / "link.txt").symlink_to(secret)
    (files / "folder").symlink_to(secret.parent)
    (files / "data.txt").write_text("mine", encoding="utf-8")


@pytest.mark.full
def test_both_roads_give_the_same_points_and_states(course, tmp_path):
    secret = tmp_path / "elsewhere" / "secret.txt"
    secret.parent.mkdir()
    secret.write_text("canary", encoding="utf-8")
    handed_in(course, secret)
    other = Path(shutil.copytree(course, course.parent / "other", symlinks=True))
    mutation.autograde(course, NAME)
    classroom.grade(other, NAME, limits=QUICK)
    graded = sums.grades(course)
    assert graded == sums.grades(other)
    points = {(student, cell): auto for (student, cell), (auto, _, _) in graded.items()}
    assert points["forged", "sum-squares-values"] == points["thief", "sum-squares-values"] == 0
    assert points["no-metadata", "sum-squares-values"] == 2
    ours, theirs = (records.read_all(each / "grading" / NAME) for each in (course, other))
    assert [(r.student, r.state, r.reasons, r.points) for r in ours] == [
        (r.student, r.state, r.reasons, r.points) for r in theirs
    ]
    assert {r.student for r in ours if r.state == UNGRADABLE} == {"broken", "huge", "nothing"}
    assert {points[s, "sum-all-values"] for s in ("copy", "text", "nested")} == {2}
    assert (course / "grading" / NAME / "report.html").is_file()
    # Formgrader grades one student at a time, so it doesn't write the answers of the whole class.
    assert not (course / "grading" / NAME / "answers").exists()
    kept = {path.name for path in (course / "autograded").rglob("*") if path.is_file()}
    assert kept == {f"{NAME}.ipynb"}
    # A second run of `course grade` has nothing to do.
    assert classroom.grade(course, NAME).graded == 0


@pytest.mark.full
def test_the_process_that_grades_never_parses_a_submission(course, monkeypatch):
    sums.hand_in(course, "a", RIGHT)
    real, read = json.loads, []
    monkeypatch.setattr(
        json, "loads", lambda text, *a, **k: read.append(text) or real(text, *a, **k)
    )
    mutation.autograde(course, NAME)
    handed_in = (course / "submitted" / "a" / NAME / f"{NAME}.ipynb").read_bytes()
    assert read and not any(handed_in in (text, str(text).encode()) for text in read)


@pytest.mark.full
def test_excluded_students_are_not_graded(course):
    for student in ("a", "b", "c"):
        sums.hand_in(course, student, RIGHT)
    with (course / release.SETTINGS).open("a", encoding="utf-8") as settings:
        settings.write('\nc.CourseDirectory.student_id_exclude = "a,c"\n')
    mutation.autograde(course, NAME)
    assert {student for student, _ in sums.grades(course)} == {"b"}
