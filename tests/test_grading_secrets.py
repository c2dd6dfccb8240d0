"""Test that no page for students contains a secret of the class, wherever the class's folder is."""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from course_utils.machine.validation import CourseError
from tests import assignment, sums
from tests.sandboxes import QUICK, needed
from tests.sums import NAME, RIGHT
from workshop.grading import classroom, readiness, release
from workshop.grading.records import PERSON
from workshop.grading.sandbox import bubblewrap

# The sandbox mounts /usr, so this folder is readable in it.
MOUNTED = Path("/usr/local/share")

pytestmark = [
    needed,
    pytest.mark.skipif(not os.access(MOUNTED, os.W_OK), reason=f"{MOUNTED} is not writable"),
    pytest.mark.filterwarnings("ignore:Object of type <Submitted"),
]

SPY = """\
import os, subprocess

for place in {places}:
    print("places:", place, os.path.exists(place))
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                print(open(os.path.join(folder, name), "rb").read().decode("latin-1"))
            except OSError as error:
                print(name, error)
print(subprocess.run(["ls", "-lR", *{places}], capture_output=True, text=True))
"""


@pytest.fixture
def place():
    """A new folder in `MOUNTED` that everybody can read."""
    folder = Path(tempfile.mkdtemp(prefix="class-", dir=MOUNTED))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def course(place, monkeypatch, tmp_path):
    """A course with a marker in each of its secrets, and with its exchange elsewhere in /usr."""
    monkeypatch.setenv("QLORA_COURSE_EXCHANGE", str(place / "exchange"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    folder = sums.course(place / "app")
    with (folder / "nbgrader_config.py").open("a") as settings:
        settings.write("c.ExchangeCollect.check_owner = False\n")
    content = assignment.notebook()
    for cell in content["cells"]:
        for line in ("### BEGIN HIDDEN TESTS", "    ### BEGIN SOLUTION"):
            cell["source"] = cell["source"].replace(line, f"{line}\n{line[:-19]}# MARKER")
    assert str(content).count("MARKER") == 6 + 3
    assignment.write(folder, content)
    release.release(folder)
    (folder / "grading").mkdir()
    (folder / "grading" / "inputs.key").write_text(f"{'MARKER-key':*<32}")
    (folder / "instructor.txt").write_text("MARKER-instructor")
    with sums.gradebook(folder) as book:
        book.add_student("other", first_name="MARKER-gradebook")
    other = sums.hand_in(folder, "other", RIGHT | {"sum-why": "MARKER-neighbour"})
    assert "MARKER" in other.read_text(encoding="utf-8")
    for path in place.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    monkeypatch.chdir(folder)
    return folder


def submit(course, place, student, answers):
    """Hand in through the exchange, with links to all files of the class beside the notebook."""
    folder = sums.submit(course, place / "exchange", student, answers, "2026-11-30 12:00:00 UTC")
    files = [path for path in course.rglob("*") if path.is_file() and path.suffix != ".html"]
    for number, path in enumerate(files):
        (folder / f"{number}-{path.name}.txt").symlink_to(path)
    return folder


@pytest.mark.full
def test_no_page_for_students_contains_a_secret_of_the_class(course, place):
    spy = SPY.format(places=[str(course), str(place), f"/proc/self/cwd/{course}"])
    submit(course, place, "spy", RIGHT | {"sum-all": spy + RIGHT["sum-all"]})
    reader = "import glob\n\nfor name in glob.glob('*'):\n    print(open(name).read())\n\n\n"
    submit(course, place, "reader", RIGHT | {"sum-all": reader + RIGHT["sum-all"]})
    thief = submit(course, place, "thief", {})
    (thief / f"{NAME}.ipynb").unlink()
    (thief / f"{NAME}.ipynb").symlink_to(course / "solutions" / NAME / f"{NAME}.ipynb")
    for action in ("collect", "generate_feedback", "release_feedback"):
        if action == "generate_feedback":
            records = {r.student: r for r in classroom.grade(course, NAME, limits=QUICK).records}
            # The points don't come from a secret: these answers are right.
            assert sum(points or 0 for points in records["spy"].points.values()) == 9
            assert records["reader"].state == PERSON
            assert not any(records["thief"].points.values())
            shutil.rmtree(course / "autograded" / "other")
        assert getattr(sums.formgrader(), action)(NAME)["success"], action
    pages = [p for p in (course / "feedback").rglob("*") if p.is_file()]
    pages += (place / "exchange" / "qlora" / "feedback").glob("*.html")
    assert len(pages) == 3 * 3 + 3
    for page in pages:
        assert b"MARKER" not in page.read_bytes(), page
    # Pages show no outputs, but the graded notebooks contain what the answers printed.
    printed = {}
    for path in (course / "autograded").rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        printed[path.parts[-3]] = str([cell.get("outputs") for cell in cells])
    assert f"places: {place}" in printed["spy"]
    assert not any("MARKER" in text for text in printed.values())


def list_folders(course, *folders):
    """Let the course's nbgrader_config.py list folders that submissions can read."""
    with (course / release.SETTINGS).open("a") as stream:
        stream.write(f"\nc.Sandbox.read_only = {list(folders)}\n")


def found(what):
    """Return the row of `course check --grading` with this name."""
    return next(row for row in readiness.check_grading().rows if row.what == what)


def test_a_course_that_can_t_be_hidden_is_one_error_that_names_it(course):
    list_folders(course, *bubblewrap.SYSTEM, str(course / "solutions"))
    message = f"{course} must be hidden from submissions, but it contains {course}/solutions"
    with pytest.raises(CourseError, match=message):
        classroom.grade(course, NAME, limits=QUICK)
    assert message in found("sandbox").found and found("sandbox").state == "fail"


def test_a_check_warns_of_a_class_inside_a_readable_folder(course, place):
    row = found("files")
    assert row.state == "warn" and "c.Sandbox.read_only" in row.remedy
    assert f"; but not {course}, {place}/exchange" in row.found
    system = [path for path in bubblewrap.SYSTEM if path != "/usr"]
    list_folders(course, *system, "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/share")
    assert found("files").state == "ok" and str(MOUNTED) not in found("files").found


@pytest.mark.parametrize("prefix", ["sys.prefix", "sys.base_prefix"])
def test_the_class_is_hidden_in_python_s_own_folder(monkeypatch, place, prefix):
    monkeypatch.setattr(prefix, str(place / "python"))
    (place / "python" / "class").mkdir(parents=True)

    def hidden(folder):
        return bubblewrap.hidden(bubblewrap.Folders((), (str(folder),)))

    assert hidden(place) == []
    assert hidden(place / "python" / "class") == [str(place / "python" / "class")]
    # A virtual environment that was created in the course's folder itself.
    with pytest.raises(CourseError, match="must be hidden from submissions, but it contains"):
        hidden(place / "python")


def test_an_environment_inside_a_hidden_course_stays_readable(course):
    """A course in /usr/src/app has its environment in /usr/src/app/.venv."""
    environment = course / "environment"
    environment.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.prefix", str(environment))
        folders = bubblewrap.Folders(private=(str(course),))
        options = list(bubblewrap._file_options(course, folders))
    places = [options.index(str(path)) for path in ("/usr", environment)]
    assert options.index("--tmpfs") in range(*places)
    assert options[-2:] == ["--remount-ro", str(course)]


def test_links_the_exchange_and_the_gradebook_s_folder_are_private(course, tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (course / "submitted").rename(tmp_path / "old")
    (course / "submitted").symlink_to(tmp_path / "disk")
    (course / ".venv").symlink_to(sys.prefix)
    with (course / release.SETTINGS).open("a") as stream:
        stream.write(f"\nc.CourseDirectory.db_url = 'sqlite:///{tmp_path}/grades/book.db'\n")
    folders = release.sandbox_folders(course)
    private = {course, tmp_path / "disk", tmp_path / "grades", course.parent / "exchange"}
    assert set(folders.private) == set(map(str, private))
    assert folders.read_only == bubblewrap.SYSTEM


def test_a_folder_in_tmp_is_refused():
    """Each submission has its own /tmp."""
    message = r"can't read /tmp/.*, because each one has its own /tmp"
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        pytest.raises(CourseError, match=message),
    ):
        bubblewrap.readable(bubblewrap.Folders((folder,)))
