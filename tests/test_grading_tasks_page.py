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


def error(message, name="CheckFailed"):
    lines = message.split("\n")
    return nbformat.v4.new_output("error", ename=name, evalue=message, traceback=lines)


def check(score, points=1, message="", name="count-values", **metadata):
    cell = nbformat.v4.new_code_cell("check(count, [1]).gives(1)")
    data = {"grade": True, "solution": False, "grade_id": name, "score": score, "points": points}
    cell.metadata = nbformat.from_dict({"nbgrader": data, **metadata})
    cell.outputs = [error(message)] if message else []
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
    assert rest.cells == []
    return " ".join(resources["tasks"].split())


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


def test_a_hidden_check_shows_the_result_but_not_the_expected_result():
    message = (
        "f(1)\n  returned  2\n  expected  [1,\n            3]\n  differs   at [0]\n  try       f(1)"
    )
    shown = dict(tasks.split(HIDDEN_PREFIX + message))
    assert shown == {"": "f(1)", "returned": "2", "expected": tasks.NOT_SHOWN, "try": "f(1)"}
    assert dict(tasks.split(PREFIX + message))["expected"] == "[1, 3]"


@pytest.mark.parametrize("kind", ["stdout", "stderr", "display_data", "execute_result", "error"])
def test_no_output_of_any_cell_is_shown_but_the_messages_of_failed_checks(kind):
    """An answer may have stored hidden inputs, which any cell of the student could print."""
    if kind == "error":
        seen = error("seen [17, 4]", "ValueError")
    elif kind.startswith("std"):
        seen = nbformat.v4.new_output("stream", name=kind, text="seen [17, 4]")
    else:
        seen = nbformat.v4.new_output(kind, data={"text/plain": "seen [17, 4]"})
    cells = [answer(), check(0, 2, MESSAGE), nbformat.v4.new_code_cell("print(stored)")]
    for cell in cells:
        cell.outputs.append(seen)
    cells.append(answer("x", grade=True, score=0, points=1))
    cells[-1].outputs = [seen]
    text = page(markdown(PROMPT), *cells)
    assert "seen" not in text and "print(stored)" not in text
    assert "count([1, 2, 3])" in text


def test_an_error_that_is_no_failed_check_is_shown_without_its_traceback():
    cell = check(0)
    cell.outputs = [error("a\nb", "KeyError")]
    cell.outputs[0].traceback = ["secret = 3", "KeyError: a"]
    text = page(markdown(PROMPT), answer(), cell)
    assert "KeyError: a b" in text and "secret" not in text


def test_the_page_of_an_ungradable_submission_says_why():
    reason = markdown("**This submission could not be graded:** the file is empty")
    reason.id = "ungradable"
    text = page(reason, markdown(PROMPT), answer(), check(0, 3))
    assert "</strong> the file is empty" in text and "Exercise 03: LoRA: your results" in text
    assert "Your answer" not in text


def test_a_task_shows_its_points_the_failed_check_and_what_to_read():
    text = page(markdown(PROMPT), answer(), check(1), check(0, 2, MESSAGE))
    assert "You have <b>1 of 3 points</b>." in text
    assert "3.1 One adapter" in text and "◐" in text and "✗" in text
    assert "Grading added this check" in text
    assert "&lt;b&gt;2&lt;/b&gt;" in text and "<b>2</b>" not in text
    assert "<dt>try it</dt><dd><code>count([1, 2, 3])</code></dd>" in text
    assert "Read again: the count by hand (lectures/03_lora.ipynb)" in text
    assert "<script>" not in text


def test_an_answer_that_waits_for_a_person_is_not_counted_as_0():
    text = page(markdown(PROMPT), answer(), check(3, 3), markdown("## Why?"), written(0, True))
    assert "<b>3 of 7 points</b> so far. 4 points are not graded yet." in text
    assert "… not graded yet" in text.replace("</span>", "")
    text = page(markdown("## Why?"), written(0, False))
    assert "not graded yet" not in text and "0 of 4 points" in text


def test_bonus_points_are_told_apart_and_a_late_penalty_is_subtracted_from_them_last():
    bonus = check(2, 0, name="more", qlora_course={"bonus": 2})
    cells = [markdown(PROMPT), answer(), check(3, 3), markdown(BONUS), answer(), bonus]
    assert "<b>3 of 3 points</b>. In addition, you have 2 of 2 bonus points." in page(*cells)
    late = page(*cells, penalty=1)
    assert "<b>2 of 3 points</b>" in late and "1 point was subtracted" in late
    assert "<b>0 of 3 points</b>. In addition, you have 1 of 2 bonus" in page(*cells, penalty=4)
    assert "<b>0 of 3 points</b>. In addition, you have 0 of 2 bonus" in page(*cells, penalty=9)


def test_the_comment_of_the_person_who_graded_is_shown():
    text = page(markdown(PROMPT), answer(comment="**Good** <script>x</script>"), check(1))
    assert "<strong>Good</strong>" in text and "<script>" not in text
