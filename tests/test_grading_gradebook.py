"""grading.results.gradebook: the state that follows from the points of a submission."""

import pytest

from course_utils.grading.results.gradebook import settle
from course_utils.grading.results.records import GRADED, PERSON, UNGRADABLE, Record, by_hand

MARKS = {"sum-all": 1.0, "sum-why": None}
DOUBT = "sum-all was answered 2 times"


@pytest.mark.parametrize(
    ("state", "reasons", "marks", "settled", "why"),
    [
        (GRADED, (), {"sum-all": 0.0}, GRADED, ()),
        (GRADED, (), MARKS, PERSON, (by_hand("sum-why"),)),
        (PERSON, (DOUBT,), {"sum-all": 1.0}, PERSON, (DOUBT,)),
        (PERSON, (DOUBT,), MARKS, PERSON, (DOUBT, by_hand("sum-why"))),
        (UNGRADABLE, ("the file is empty",), MARKS, UNGRADABLE, ("the file is empty",)),
    ],
)
def test_points_settle_the_state(state, reasons, marks, settled, why):
    record = Record("09_sums", "student01", state, reasons, repairs=("mended",), key="k")
    assert settle(record, marks) == Record(
        "09_sums", "student01", settled, why, repairs=("mended",), points=marks, key="k"
    )
    assert (record.state, record.reasons, record.points) == (state, reasons, {})
