"""Test compare: which answers are written, and what compare50 finds in them."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils.machine.validation import CourseError
from tests import mutation
from workshop.grading.assignments import read
from workshop.grading.compare import compare, write_answers

NAME = "04_nf4"
NF4 = read(mutation.ROOT / "exercises" / NAME / f"{NAME}.ipynb")
HARMFUL = "</script></code></pre><img src=x onerror='hacked = 1'><script>hacked = 1</script>"


def autograded(folder, student, sources, *own):
    """Write the graded notebook of a student with these answers, and with own cells."""
    notebook = json.loads(NF4.path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = sources.get(cell["id"], cell["source"])
    notebook["cells"] += [{"cell_type": "code", "metadata": {}, "source": source} for source in own]
    path = folder / "autograded" / student / NAME / f"{NAME}.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(notebook))
    return path


def test_only_what_a_student_wrote_is_written(tmp_path):
    stub, test = NF4.tasks[4].answer["source"], NF4.tasks[3].checks[0]["id"]
    written = {"nf4-pack": ["def f():\n", "    pass\ud800"], "nf4-optimal": "Because."}
    written |= {test: "# hidden", NF4.tasks[4].id: stub + "\n"}
    autograded(tmp_path, "a", written, "x = 1", "y = 2")
    assert write_answers(tmp_path, NF4, ["a"]) == []
    folder = tmp_path / "grading" / NAME
    files = {path.name: path.read_text() for path in (folder / "answers" / "a").iterdir()}
    code = "def f():\n    pass?\n\nx = 1\n\ny = 2\n"
    assert files == {"answers.py": code, "answers.md": "Because.\n"}
    assert stub in (folder / "released" / "answers.py").read_text()
    assert "## 4.1" in (folder / "released" / "answers.md").read_text()


def test_no_name_leaves_the_folder_or_replaces_another_student(tmp_path):
    names = ["a", "A", "-o", "*", "?", "<img src=x onerror=alert(1)>", "é" * 60, "é" * 61, "a\n"]
    for name in names:
        autograded(tmp_path, name, {"nf4-pack": name})
    assert write_answers(tmp_path, NF4, names) == []
    written = os.listdir(tmp_path / f"grading/{NAME}/answers")
    assert len(written) == len(names) and {"a", "A", "-o", "_~3"} <= set(written)
    assert not [name for name in written if set(name) & set("<>*?()\n") or len(name) > 50]
    assert set(os.listdir(tmp_path)) == {"autograded", "grading"}


def test_answers_that_would_take_hours_are_left_out_and_named(tmp_path):
    long = ["0, " * 3_000, "(" * 9_999, "x\n" * 2_000, "# -\n" * 2_000, "words " * 20_000]
    for number, source in enumerate(long):
        autograded(tmp_path, f"{number}", {"nf4-pack": source})
    autograded(tmp_path, "honest", {"nf4-pack": f"# {'-' * 98}\nx = 1\n" * 40})
    autograded(tmp_path, "damaged", {}).write_text("[]")
    left_out = write_answers(tmp_path, NF4, [*"01234", "honest", "damaged", "missing"])
    assert [text.split()[0] for text in left_out] == [*"01234", "damaged", "missing"]
    assert all("too long or repeat themselves" in text for text in left_out[:5])
    assert os.listdir(tmp_path / f"grading/{NAME}/answers") == ["honest"]


def test_a_link_in_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "grading" / NAME).mkdir(parents=True)
    (tmp_path / "grading" / NAME / "answers").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="it is a link"):
        write_answers(tmp_path, NF4, [])
    assert (tmp_path / "precious").exists()


def test_the_error_says_how_to_install_compare50(tmp_path):
    with pytest.raises(CourseError, match=r"`python -m venv .compare50` and `.compare50/bin/pip"):
        compare(tmp_path, NAME)


# --- compare50 ------------------------------------------------------------------------------------


def answers(seed):
    """Return a student's answers, which are drawn from right and wrong answers of tests/mutants."""
    draw = random.Random(seed)
    tasks = mutation.code_tasks(NF4)
    return {task.id: draw.choice(mutation.mutants(NAME, task.id)).source for task in tasks}


@pytest.mark.full
def test_compare50_finds_copies_first_and_its_pages_are_harmless(tmp_path, browser):
    folder = tmp_path / ".compare50"
    if program := shutil.which("compare50"):
        folder.symlink_to(Path(program).parents[1])
    else:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", "compare50"], check=True)
    students = {f"s{n:02}": answers(n) for n in range(10)}
    copied = {task: f"# Mine!\n{source}" for task, source in students["s03"].items()}
    students["s05"] = {task: re.sub(r"\bx\b", "data", source) for task, source in copied.items()}
    students["<img src=x onerror='hacked = 1'>"] = {"nf4-pack": HARMFUL}
    for student, sources in students.items():
        autograded(tmp_path, student, sources, f"# {HARMFUL}", f"print('''{HARMFUL}''')")
    assert write_answers(tmp_path, NF4, students) == []
    (tmp_path / "grading" / NAME / "compare").mkdir()  # as an earlier comparison leaves it
    index, page = compare(tmp_path, NAME), browser.new_page()
    for path in (*index.parent.glob("match_*.html"), index):
        page.goto(path.as_uri())
        assert page.locator("img").count() == 0 and page.evaluate("window.hacked") is None
    assert page.locator("#results tbody td.sub_name").all_inner_texts()[:2] == ["s03", "s05"]
