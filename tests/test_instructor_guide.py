"""docs/instructor-guide.md: its plans add up, with the assignments' own minutes and questions."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from course_utils import notebooks
from course_utils.grading.assignments import read, sources

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "instructor-guide.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\d):(\d\d) \| (\d+) \| (.+?) \|(.*)\|$", re.M)
PLANS = {
    heading: text
    for heading, text in re.findall(r"^##+ (.+)\n\n((?:(?!^#).*\n)+)", GUIDE, re.M)
    if ROW.search(text)
}
SESSIONS = [heading for heading in PLANS if heading.startswith("Session ")]
MINUTES = {task.number: task.minutes for path in sources(ROOT) for task in read(path).tasks}


def rows(heading):
    """Start and length in minutes, what is done, and how, of each row of a plan."""
    for hours, minutes, length, what, how in ROW.findall(PLANS[heading]):
        yield 60 * int(hours) + int(minutes), int(length), what, how


def tasks(text):
    """The numbers of the tasks that a text names."""
    return re.findall(r"\b[1-7]\.\d\b", text)


def at_home(heading):
    """Minutes and numbers of the tasks that a session leaves for home."""
    minutes, listed = re.search(
        r"^At home, (\d+) min: tasks ([\d., ]+)", PLANS[heading], re.M
    ).groups()
    return int(minutes), tasks(listed)


def test_there_is_a_workshop_and_there_are_six_sessions():
    assert list(PLANS) == ["One workshop of three hours", *SESSIONS]
    assert [heading[:10] for heading in SESSIONS] == [f"Session {n}:" for n in range(1, 7)]


@pytest.mark.parametrize("heading", PLANS, ids=[heading[:9] for heading in PLANS])
def test_minutes_add_up(heading):
    clock = 0
    for start, length, what, _ in rows(heading):
        assert start == clock, what
        clock += length
    assert clock == (50 if heading in SESSIONS else 180)


@pytest.mark.parametrize("heading", PLANS, ids=[heading[:9] for heading in PLANS])
def test_tasks_take_the_minutes_that_they_state(heading):
    planned = [(length, what) for _, length, what, _ in rows(heading) if what.startswith("Task")]
    assert planned
    for length, what in planned:
        assert length == sum(MINUTES[number] for number in tasks(what)), what


@pytest.mark.parametrize("heading", SESSIONS, ids=[heading[:9] for heading in SESSIONS])
def test_work_at_home_takes_the_minutes_that_it_states(heading):
    minutes, numbers = at_home(heading)
    assert minutes == sum(MINUTES[number] for number in numbers)


def test_sessions_have_every_task_once():
    found = Counter()
    for heading in SESSIONS:
        for _, _, what, _ in rows(heading):
            found.update(tasks(what))
        found.update(at_home(heading)[1])
    assert found == Counter(MINUTES.keys())


def test_sections_to_show_are_those_of_the_lectures():
    shown = 0
    for heading in PLANS:
        for _, _, what, how in rows(heading):
            if not (link := re.search(r"\(\.\./(lectures/\S+)\)", what)):
                continue
            cells = json.loads((ROOT / link[1]).read_text(encoding="utf-8"))["cells"]
            text = "\n".join("".join(cell["source"]) for cell in cells)
            for section in re.findall(r"\*([^*]+)\*", how):
                shown += 1
                assert re.search(rf"^##+ {re.escape(section)}$", text, re.M), section
    assert shown > 40


def test_both_plans_show_every_lecture():
    for headings in (list(PLANS)[:1], SESSIONS):
        text = "".join(PLANS[heading] for heading in headings)
        assert all(f"(../lectures/{path.name})" in text for path in notebooks.lectures(ROOT))


def test_links_lead_somewhere():
    for target, _, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", GUIDE):
        page = ROOT / "docs" / target if target else ROOT / "docs" / "instructor-guide.md"
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings], anchor
