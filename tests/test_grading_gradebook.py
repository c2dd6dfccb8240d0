"""Test results.gradebook: the state that follows from the points of a submission."""

import pytest

from course_utils.grading.results.gradebook import with_points
from course_utils.grading.results.records import GRADED, PERSON, UNGRADABLE, Record, by_hand

POINTS = {"sum-all": 1.0, "sum-why": None}
DOUBT = "sum-all has 2 different answers"


@pytest.mark.parametrize(
    ("state", "reasons", "points", "new_state", "new_reasons"),
    [
        (GRADED, (), {"sum-all": 0.0}, GRADED, ()),
        (GRADED, (), POINTS, PERSON, (by_hand("sum-why"),)),
        (PERSON, (DOUBT,), {"sum-all": 1.0}, PERSON, (DOUBT,)),
        (PERSON, (DOUBT,), POINTS, PERSON, (DOUBT, by_hand("sum-why"))),
        (UNGRADABLE, ("the file is empty",), POINTS, UNGRADABLE, ("the file is empty",)),
    ],
)
def test_missing_points_need_a_person(state, reasons, points, new_state, new_reasons):
    record = Record("09_sums", "student01", state, reasons, repairs=("a repair",), key="k")
    assert with_points(record, points) == Record(
        "09_sums",
        "student01",
        new_state,
        new_reasons,
        repairs=("a repair",),
        points=points,
        key="k",
    )
    assert (record.state, record.reasons, record.points) == (state, reasons, {})
