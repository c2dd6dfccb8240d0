"""docs/instructor-guide.md: the minutes it plans for tasks are those that the assignments state."""

import re
from pathlib import Path

import pytest

from course_utils.grading.assignments import read, sources

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "instructor-guide.md").read_text(encoding="utf-8")
IN_CLASS = re.findall(r"^\| \d:\d\d \| (\d+) \| (Tasks? [^|]+) \|", GUIDE, re.M)
AT_HOME = re.findall(r"^At home, (\d+) min: (tasks [\d., ]+)\.", GUIDE, re.M)
MINUTES = {task.number: task.minutes for path in sources(ROOT) for task in read(path).tasks}


def tasks(text):
    """The numbers of the tasks that a text names."""
    return re.findall(r"\b\d+\.\d+\b", text)


def test_the_guide_plans_tasks_in_class_and_at_home():
    assert IN_CLASS and AT_HOME


@pytest.mark.parametrize("planned, text", [*IN_CLASS, *AT_HOME])
def test_tasks_take_the_minutes_that_they_state(planned, text):
    assert tasks(text)
    assert int(planned) == sum(MINUTES[number] for number in tasks(text))


def test_the_sessions_have_each_task_once():
    sessions = GUIDE[GUIDE.index("\n## Six sessions") :]
    rows = re.findall(r"^\| \d:\d\d \| \d+ \| (Tasks? [^|]+) \|", sessions, re.M)
    named = tasks(" ".join([*rows, *(text for _, text in AT_HOME)]))
    assert len(named) == len(set(named))
    assessed = {number.partition(".")[0] for number in named}
    assert set(named) == {n for n in MINUTES if n.partition(".")[0] in assessed}
