"""Test the first part of a feedback page: the tasks with their points, messages and answers."""

import nbformat
import pytest

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")

from course_utils.exercise.checks import HIDDEN_PREFIX, PREFIX
from workshop.grading.feedback import tasks

PROMPT = """\
## 3.1 One adapter
●○○ · 5 min · 3 points

Count. See [the count by hand](../../lectures/03_lora.ipynb#hand-sum).
"""
BONUS = "## 3.2 More\n●●● · 9 min · 2 bonus points\n\nMore.\n"
MESSAGE = f"""\
{HIDDEN_PREFIX}count([1, 2,
    3])
  returned  <b>2</b>
  likely    one was
            left out
  try       count([1, 2, 3])"""


def markdown(source, **data):
    cell = nbformat.v4.new_markdown_cell(source)
    if data:
        cell.metadata["nbgrader"] = {"grade_id": "text", "schema_version": 3, **data}
    return cell


def check(score, points=1, message="", name="count-values", **metadata):
    cell = nbformat.v4.new_code_cell("check(count, [1]).gives(1)")
    data = {"grade": True, "solution": False, "grade_id": name, "score": score, "points": points}
    cell.metadata = nbformat.from_dict({"nbgrader": data, **metadata})
    if message:
        lines = message.split("\n")
        cell.outputs = [
            nbformat.v4.new_output("error", ename="CheckFailed", evalue="", traceback=lines)
        ]
    return cell


def answer(source="def count(x):\n    return '<script>'", **data):
    cell = nbformat.v4.new_code_cell(source)
    cell.metadata["nbgrader"] = {"grade": False, "solution": True, "grade_id": "count", **data}
    return cell


def written(score, waiting):
    points = {"grade": True, "solution": True, "score": score, "points": 4, "waiting": waiting}
    return markdown("My <script>text</script>.", **points)


def page(*cells, penalty=0):
    notebook = nbformat.v4.new_notebook(cells=[markdown("# Exercise 03: LoRA"), *cells])
    resources = {"nbgrader": {"notebook": "03_lora", "late_penalty": penalty}}
    rest, resources = tasks.TaskResults().preprocess(notebook, resources)
    return rest, " ".join(resources["tasks"].split())


def test_a_message_is_split_into_its_parts():
    assert tasks.split(MESSAGE) == [
        ("", "count([1, 2, 3])"),
        ("returned", "<b>2</b>"),
        ("likely", "one was left out"),
        ("try", "count([1, 2, 3])"),
    ]
    assert tasks.split(f"{PREFIX}f(1)\n  raised    E: a\nb") == [
        ("", "f(1)"),
        ("raised", "E: a b"),
    ]
    assert tasks.split("") == []


def test_a_task_shows_its_points_the_failed_check_and_what_to_read():
    _, text = page(markdown(PROMPT), answer(), check(1), check(0, 2, MESSAGE))
    assert "You have <b>1 of 3 points</b>." in text
    assert "3.1 One adapter" in text and "◐" in text and "✗" in text
    assert "Grading added this check" in text
    assert "&lt;b&gt;2&lt;/b&gt;" in text and "<b>2</b>" not in text
    assert "<dt>try it</dt><dd><code>count([1, 2, 3])</code></dd>" in text
    assert "Read again: the count by hand (lectures/03_lora.ipynb)" in text
    assert "<script>" not in text


def test_an_answer_that_waits_for_a_person_is_not_counted_as_0():
    _, text = page(markdown(PROMPT), answer(), check(3, 3), markdown("## Why?"), written(0, True))
    assert "<b>3 of 7 points</b> so far. 4 points are not graded yet." in text
    assert "… not graded yet" in text.replace("</span>", "")
    _, text = page(markdown("## Why?"), written(0, False))
    assert "not graded yet" not in text and "0 of 4 points" in text


def test_bonus_points_are_told_apart():
    bonus = check(2, 0, name="more", qlora_course={"bonus": 2})
    _, text = page(markdown(PROMPT), answer(), check(3, 3), markdown(BONUS), answer(), bonus)
    assert "<b>3 of 3 points</b>. In addition, you have 2 of 2 bonus points." in text


def test_a_late_penalty_is_subtracted():
    _, text = page(markdown(PROMPT), answer(), check(3, 3), penalty=1)
    assert "<b>2 of 3 points</b>" in text and "1 point was subtracted" in text


def test_a_late_penalty_that_exceeds_the_points_is_subtracted_from_the_bonus_points():
    bonus = check(2, 0, name="more", qlora_course={"bonus": 2})
    cells = [markdown(PROMPT), answer(), check(1, 3), markdown(BONUS), answer(), bonus]
    assert "<b>0 of 3 points</b>. In addition, you have 1 of 2 bonus" in page(*cells, penalty=2)[1]
    assert "<b>0 of 3 points</b>. In addition, you have 0 of 2 bonus" in page(*cells, penalty=9)[1]


def test_the_comment_of_the_person_who_graded_is_shown():
    _, text = page(markdown(PROMPT), answer(comment="**Good** <script>x</script>"), check(1))
    assert "<strong>Good</strong>" in text and "<script>" not in text
