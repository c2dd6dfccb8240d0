"""Test that exercises which were solved on Colab are repaired, collected and graded."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")

from course_utils.machine.validation import CourseError
from tests import colab, mutation
from tests.mutation import ROOT
from tests.sandboxes import needed
from workshop.grading import classroom, release
from workshop.grading.assignments import read, sources
from workshop.grading.repair_file import find_release, repair_file

NAMES = [path.stem for path in sources(ROOT)]
LOST = "restored the type or nbgrader's metadata"
SAVES = {
    "downloaded": {"ids": True},
    "copied to Drive": {"ids": False, "name": "Copy of 03_lora.ipynb"},
    "saved to GitHub": {"ids": False, "link": True},
    "kept its ids, to GitHub": {"ids": True, "link": True},
}


def solved(name):
    """Return a released assignment with correct answers, and a student's cell after the imports."""
    answers = {t.id: t.answer["source"] for t in read(sources(ROOT, name)[0]).tasks}
    notebook = json.loads((ROOT / f"exercises/{name}/{name}.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = answers.get(cell["id"], "".join(cell["source"]))
    index = next(n for n, cell in enumerate(notebook["cells"]) if cell["id"] == "imports")
    cell = {"cell_type": "code", "id": "mine", "metadata": {}, "source": "1 + 1"}
    notebook["cells"].insert(index + 1, cell | {"execution_count": None, "outputs": []})
    return notebook


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("name", NAMES)
def test_repair_restores_every_cell(name, save, tmp_path):
    notebook = solved(name)
    path = tmp_path / f"student01_{name}.ipynb"
    path.write_text(colab.saved(notebook, **SAVES[save]), encoding="utf-8")
    target, repaired = repair_file(path, find_release(path, folder=ROOT))
    assert target == tmp_path / f"student01_{name}-repaired.ipynb"
    lost = [] if SAVES[save]["ids"] else [LOST]
    assert [note.partition(":")[0] for note in repaired.notes] == lost and repaired.doubts == []
    restored = json.loads(target.read_text(encoding="utf-8"))
    assert restored["metadata"] == notebook["metadata"]
    cells = [{**cell, "source": "".join(cell["source"])} for cell in restored["cells"]]
    if SAVES[save].get("link"):
        assert "view-in-github" not in cells[0]["metadata"] and "<a href=" in cells[0]["source"]
        del cells[0]
    mine = next(cell for cell in cells if cell["source"] == "1 + 1")
    assert mine["metadata"] == {}
    mine["id"] = "mine"
    assert cells == notebook["cells"]


@pytest.mark.parametrize("save", SAVES)
def test_an_answer_in_a_new_cell_is_not_repaired(save, tmp_path):
    """The student deleted the cell for the answer, so the place of the new cell is uncertain."""
    notebook = solved("03_lora")
    answer = next(cell for cell in notebook["cells"] if "SOLUTION" in cell["source"])
    answer.update({"id": "new", "metadata": {}, "source": answer["source"].partition("\n")[2]})
    path = tmp_path / "student01_03_lora.ipynb"
    path.write_text(colab.saved(notebook, **SAVES[save]), encoding="utf-8")
    with pytest.raises(CourseError, match="was not repaired, because it is uncertain how"):
        repair_file(path, find_release(path, folder=ROOT))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def collected(course, name):
    """Collect files as students send them with `nbgrader zip_collect`, and return its output."""
    archive = course / "downloaded" / name / "archive"
    archive.mkdir(parents=True)
    names = (f"{name}.ipynb", f"Copy of {name}.ipynb", f"{name} (1).ipynb", f"Copy_of_{name}.ipynb")
    for number, (options, end) in enumerate(zip(SAVES.values(), names, strict=True), 1):
        text = colab.saved(solved(name), **options)
        (archive / f"student0{number}_{end}").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "nbgrader", "zip_collect", name]
    done = subprocess.run(command, cwd=course, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@needed
# nbgrader causes this warning of SQLAlchemy.
@pytest.mark.filterwarnings("ignore:Object of type <Submitted")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.full if name == "03_lora" else pytest.mark.slow)
        for name in NAMES
    ],
)
def test_saved_notebooks_get_the_same_points_as_the_original(name, tmp_path):
    with mutation.offline():
        course = release.copy_course(ROOT, tmp_path / "course", only=name)
        release.release(course)
        mutation.submit(course, name, "original", {})
        assert "4 files collected" in collected(course, name)
        records = classroom.grade(course, name, workers=2).records
    points = {record.student: record.points for record in records}
    assert list(points) == ["original", "student01", "student02", "student03", "student04"]
    assignment = read(sources(ROOT, name)[0])
    full = {task.id: task.points for task in mutation.code_tasks(assignment)}
    for record in records:
        assert record.points == points["original"], record.student
        assert mutation.by_task(assignment, record.points) == full
        lost = [line for line in record.repairs if line.startswith(LOST)]
        assert len(lost) == (record.student in ("student02", "student03"))
