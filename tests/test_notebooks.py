"""Test notebooks, notebook_check, course_map and execution: checks, fixes, runs and pages."""

import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from click.testing import CliRunner

from course_utils import __version__
from course_utils.machine import environment, notebooks
from course_utils.machine.execution import execute
from course_utils.machine.validation import CourseError
from tests import interruptible
from tests.cells import OPENING, code_cell, notebook, text_cell, write_notebook
from workshop import cli
from workshop.publishing import glossary
from workshop.publishing import html as html_pages
from workshop.publishing.notebook_check import RUN_FIX, SETUP_CELL, check, fix, setup_cell

# One kernel runs the notebook of the fixture `executed`.
pytestmark = pytest.mark.xdist_group("executed-notebook")


def lecture(*cells):
    hidden = {"tags": ["hide-input"], "jupyter": {"source_hidden": True}, "cellView": "form"}
    start = [text_cell("opening", OPENING), code_cell("setup", SETUP_CELL, **hidden)]
    return notebook(*start, *cells, text_cell("words", glossary.words([], {})))


# --- check ---


def change(path, *keys_and_value):
    """Return a function that sets one value inside the JSON of a notebook."""

    def apply(content):
        *keys, last, value = (*path, *keys_and_value)
        for key in keys:
            content = content[key]
        content[last] = value

    return apply


CELL = ("cells", 2)
STREAM = [{"name": "stdout", "output_type": "stream", "text": "2"}]
BAD = {
    "older format": (change(("nbformat_minor",), 4), "has nbformat 4.4, but must have 4.5"),
    "schema": (change(CELL, "cell_type", "unknown"), "is not valid in the notebook format"),
    "outputs": (change(CELL, "outputs", STREAM), "cell sum: contains outputs"),
    "counts": (change(CELL, "execution_count", 3), "cell sum: contains an execution count"),
    "widgets": (change(("metadata",), "widgets", {}), "the metadata widgets must not be in git"),
    "random id": (change(CELL, "id", "3f2504e0"), "the id '3f2504e0' is random"),
    "digits": (change(CELL, "id", "1234"), "'1234' is not a name"),
    "underscore": (change(CELL, "id", "the_sum"), "'the_sum' is not a name"),
    "same id": (change(CELL, "id", "setup"), "another cell has the id 'setup', too"),
    "kernel": (change(("metadata", "kernelspec"), "name", "conda"), "the metadata kernelspec"),
    "version": (change(("metadata", "language_info"), "version", "3.11.7"), "language_info"),
    "metadata": (change((*CELL, "metadata"), "ExecuteTime", {}), "cell sum: the metadata Execute"),
    "other set-up": (change(("cells", 1), "source", SETUP_CELL + "\n"), "cell setup: is out of"),
    "visible set-up": (change(("cells", 1, "metadata"), "tags", []), "cell setup: the metadata"),
    "set-up name": (change(("cells", 1), "id", "start"), "must be the set-up cell"),
    "no words": (change(("cells", 3), "id", "others"), "a Markdown cell must have the id words"),
    "no title": (change(("cells", 0), "source", OPENING[2:]), "must begin with a title"),
    "no minutes": (
        change(("cells", 0), "source", OPENING.replace("1 minute", "long")),
        "the 'Run time' line must look like: - **Run time:** 2 minutes on CPU",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_kind_of_problem_is_found(tmp_path, kind):
    break_it, expected = BAD[kind]
    content = json.loads(json.dumps(lecture(code_cell("sum", "1 + 1"))))
    break_it(content)
    problems = check(write_notebook(tmp_path / "lectures" / "01_bad.ipynb", content))
    assert any(expected in problem for problem in problems), problems


def test_assignments_must_have_the_setup_cell(tmp_path):
    for folder in ("solutions", "exercises"):
        path = write_notebook(
            tmp_path / folder / "01_sums" / "01_sums.ipynb", notebook(text_cell("t", ""))
        )
        assert "the first code cell must be the set-up cell" in check(path)[0]
        assert fix(path) and check(path) == []


def test_check_and_fix_report_files_that_are_not_notebooks(tmp_path):
    (tmp_path / "broken.ipynb").write_text("{")
    (tmp_path / "list.ipynb").write_text("[]")
    for name, reason in (
        ("broken.ipynb", "is not a notebook: "),
        ("list.ipynb", "is not a notebook: "),
        ("missing.ipynb", "can't be read: No such file"),
    ):
        assert check(tmp_path / name)[0].startswith(reason)
        with pytest.raises(CourseError, match=re.escape(f"{name} {reason}")):
            fix(tmp_path / name)


def test_other_formatting_is_a_problem(tmp_path):
    path = tmp_path / "compact.ipynb"
    path.write_text(json.dumps(notebook(code_cell("sum", "1 + 1"))))
    assert check(path) == [
        "is not formatted as Jupyter formats notebooks: run `course notebooks fix`"
    ]
    assert fix(path) and check(path) == []


# --- fix ---


def test_fix_removes_outputs_and_metadata(tmp_path):
    dirty = lecture(code_cell("sum", "1 + 1", ExecuteTime={}, tags=["summary"]))
    dirty["cells"][2] |= {"outputs": STREAM, "execution_count": 7}
    dirty["metadata"] |= {"widgets": {}, "colab": {}, "kernelspec": {"name": "x"}, "title": "T"}
    dirty["nbformat_minor"] = 4
    del dirty["cells"][1]
    path = write_notebook(tmp_path / "lectures" / "01_dirty.ipynb", dirty)
    assert fix(path)
    assert check(path) == []
    clean = json.loads(path.read_text())
    assert clean["metadata"]["title"] == "T"
    assert [cell["id"] for cell in clean["cells"]] == ["opening", "setup", "sum", "words"]
    assert clean["cells"][2]["metadata"] == {"tags": ["summary"]}
    before = path.stat().st_mtime_ns
    assert not fix(path), "the second fix has nothing to do"
    assert path.stat().st_mtime_ns == before


HEADER = "| lecture | slides | question | study time |\n|---|---|---|---|"


def test_fix_renews_the_table_of_lectures(tmp_path):
    first = lecture(text_cell("course-map", f"Before.\n\n{HEADER}\n| old |\n\nAfter."))
    path = write_notebook(tmp_path / "lectures" / "00_first.ipynb", first)
    assert check(path) == [f"cell course-map: is out of date: {RUN_FIX}"]
    assert fix(path) and check(path) == []
    row = "| [01 A lecture](01_more.ipynb) | Introduction | Does it work? | 5 min |"
    write_notebook(tmp_path / "lectures" / "01_more.ipynb", lecture())
    assert check(path) != [], "the table lacks the new lecture"
    fix(path)
    source = "".join(json.loads(path.read_text())["cells"][2]["source"])
    assert source.startswith("Before.\n\n| lecture |")
    assert source.endswith(f"{row}\n\nTogether, the lectures take 0.2 hours.\n\nAfter.")
    deeper = text_cell("deeper", "## Going deeper: Why?\n\n" + "word " * 7_500)
    write_notebook(tmp_path / "lectures" / "01_more.ipynb", lecture(deeper))
    fix(path)
    source = "".join(json.loads(path.read_text())["cells"][2]["source"])
    assert "| 60 min (core: 5) |\n\nTogether, the lectures take 1.1 hours. Their *core*, " in source
    assert source.endswith("deeper*\nsections, which you can skip, takes 0.2 hours.\n\nAfter.")
    assert source.count("Together, the lectures") == 1


def test_the_commands_check_and_fix(tmp_path, monkeypatch):
    dirty = notebook(code_cell("sum", "1 + 1"))
    dirty["cells"][0]["execution_count"] = 1
    path = write_notebook(tmp_path / "lectures" / "01_x.ipynb", dirty)
    other = write_notebook(tmp_path / "exercises" / "x.ipynb", notebook())
    (tmp_path / "course_utils").mkdir()
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        result = CliRunner().invoke(cli.main, ["notebooks", *map(str, arguments)])
        return result.exit_code, result.output

    assert run("check", other)[0] == 0
    status, output = run("check")
    assert status == 1 and f"{path}: cell sum: contains an execution count" in output
    status, output = run("fix", path)
    assert status == 1, "fix does not write a title"
    assert f"{path}: cleaned" in output and "execution count" not in output and "a title" in output
    status, output = run("fix", tmp_path / "none.ipynb")
    assert status == 1 and "none.ipynb can't be read" in output


# --- the set-up cell ---


PUBLISHED = "https://github.com/example/course"


class Colab:
    """A stand-in for Colab and its pip, which stores the commands and the displayed objects."""

    def __init__(self, monkeypatch, here=True, fails=None, kaggle=False):
        self.commands, self.shown, self.failing = [], [], fails
        monkeypatch.setattr(subprocess, "run", self.run)
        monkeypatch.setattr(metadata, "version", lambda name: f"{name}-version")
        monkeypatch.setattr(environment, "check_environment", lambda: "all is well")
        monkeypatch.delitem(sys.modules, "google.colab", raising=False)
        monkeypatch.delenv("COURSE_REPOSITORY", raising=False)
        monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
        if kaggle:
            monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
        elif here:
            monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())

    def run(self, command, capture_output):
        assert capture_output and command[:4] == [sys.executable, "-m", "pip", "-q"]
        self.commands.append(command[4:])
        failed = self.failing == command[4]
        return SimpleNamespace(
            returncode=int(failed), stderr=b"a" * 3000 + "fatal: \u00df".encode()
        )

    def execute(self, monkeypatch, cell, installed=False):
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name: object() if installed else None
        )
        exec(cell, {"display": self.shown.append})


def installing(address):
    held = [f"{name}=={name}-version" for name in ("ipython", "ipywidgets", "numpy", "torch")]
    return [["uninstall", "-y", "torchao"], ["install", f"git+{address}@v{__version__}", *held]]


@pytest.mark.parametrize("address", ["", PUBLISHED], ids=["not published", "published"])
def test_the_setup_cell_does_nothing_outside_colab(monkeypatch, address):
    computer = Colab(monkeypatch, here=False)
    for installed in (False, True):
        computer.execute(monkeypatch, setup_cell(address), installed)
    assert computer.commands == computer.shown == []


OTHER = "https://example.org/course"


@pytest.mark.parametrize(
    ("address", "named", "kaggle"),
    [(PUBLISHED, "", False), (PUBLISHED, "", True), (PUBLISHED, OTHER, False), ("", OTHER, False)],
)
def test_the_setup_cell_installs_the_release_on_colab_and_kaggle(
    monkeypatch, address, named, kaggle
):
    """The environment may name another repository."""
    colab = Colab(monkeypatch, kaggle=kaggle)
    monkeypatch.setenv("COURSE_REPOSITORY", named)
    colab.execute(monkeypatch, setup_cell(address))
    assert colab.commands == installing(named or address)
    assert colab.shown == ["all is well"]
    colab.execute(monkeypatch, setup_cell(address), installed=True)
    assert len(colab.commands) == 2 and len(colab.shown) == 1, "the second run has nothing to do"


def test_the_setup_cell_of_an_unpublished_course_asks_for_the_address(monkeypatch):
    colab = Colab(monkeypatch)
    with pytest.raises(RuntimeError, match=r"^Run `%env COURSE_REPOSITORY=.*first.$"):
        colab.execute(monkeypatch, SETUP_CELL)
    assert colab.commands == [] and setup_cell("") == SETUP_CELL


@pytest.mark.parametrize("step", ["uninstall", "install"])
def test_the_setup_cell_shows_the_end_of_the_output_of_pip(monkeypatch, step):
    colab = Colab(monkeypatch, fails=step)
    with pytest.raises(RuntimeError, match=rf"^`pip {step}` failed.\na{{900,}}fatal: ß$") as fault:
        colab.execute(monkeypatch, setup_cell(PUBLISHED))
    assert len(str(fault.value)) < 2100 and colab.shown == []


# --- the course folder ---


def test_the_course_folder_is_found_from_a_subfolder_and_from_the_package(tmp_path, monkeypatch):
    for name in ("lectures", "course_utils"):
        (tmp_path / "course" / name).mkdir(parents=True)
    inside = tmp_path / "course" / "lectures"
    assert notebooks.course_folder(inside) == tmp_path / "course"
    repository = Path(__file__).resolve().parents[1]
    assert notebooks.course_folder(tmp_path) == repository
    installed = tmp_path / "site-packages" / "course_utils" / "machine" / "notebooks.py"
    monkeypatch.setattr(notebooks, "__file__", str(installed))
    with pytest.raises(CourseError, match="is not in a course folder"):
        notebooks.course_folder(tmp_path)


def test_a_lecture_is_chosen_by_number_or_name(tmp_path):
    paths = [
        write_notebook(tmp_path / "lectures" / f"{n}.ipynb", lecture()) for n in ("00_a", "07_b")
    ]
    write_notebook(tmp_path / "lectures" / "draft.ipynb", lecture())
    assert notebooks.lectures(tmp_path) == paths
    for name in ("07", "7", "07_b", "07_b.ipynb", "lectures/07_b.ipynb"):
        assert notebooks.lectures(tmp_path, name) == paths[1:]
    with pytest.raises(CourseError, match="there is no lecture 08; choose one of: 00_a, 07_b"):
        notebooks.lectures(tmp_path, "08")
    with pytest.raises(
        CourseError, match=r"there is no lecture 1; .*/none/lectures has no lectures"
    ):
        notebooks.lectures(tmp_path / "none", "1")


# --- execution ---

CHILD = """
import subprocess, sys
hold = "x = b'x' * 150_000_000; print('ready', flush=True); input()"
child = subprocess.Popen([sys.executable, "-c", hold], stdin=-1, stdout=-1, text=True)
child.stdout.readline()
"""
CONTROLS = """
import ipywidgets as widgets
shown = widgets.HTML('<img alt="a bar &amp; a line" src="data:image/png;base64,AAAA">')
menu = widgets.Dropdown(options=[("four", 4), ("eight", 8)], value=8, description="bits")
bar = widgets.IntProgress(3, max=5, description="steps")
widgets.VBox([widgets.HBox([widgets.IntSlider(7, description="rank"), menu, bar]), shown])
"""
ASKED = """
from course_utils.notebook.predict import answer, predict, reveal
predict("size", "How large <is> it?", ["small", "large"])
reveal("size", "large", {"small": "You forgot the activations."})
answer("It is large. See $x$.")
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Run a notebook with a figure, widgets, a child process, streams and a summary."""
    folder = tmp_path_factory.mktemp("executed")
    path = write_notebook(
        folder / "course" / "03_all.ipynb",
        notebook(
            text_cell(
                "opening",
                "# All of it\n\n$W' = W + AB$ and [more](04_next.ipynb#end), "
                "[do](../exercises/03/03.ipynb)",
            ),
            code_cell("memory", "block = b'x' * 300_000_000\ndel block"),
            code_cell("child", CHILD),
            code_cell("child-ends", "child.communicate('');"),
            code_cell("figure", "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"),
            code_cell("controls", CONTROLS),
            code_cell("asked", ASKED),
            code_cell("bar", "from tqdm import tqdm\nfor _ in tqdm(range(3), desc='at'): pass"),
            code_cell("place", "from pathlib import Path\nPath('here.txt').write_text('x');"),
            code_cell("table", "print('mean  84%')\n{'answer': 42}", tags=["summary"]),
        ),
    )
    before = path.read_bytes()
    result = execute(path, folder / "build" / "pages")
    assert path.read_bytes() == before
    return result


@pytest.fixture(scope="module")
def page(executed):
    """Return the text of the page of the executed notebook."""
    return html_pages.write_page(executed.executed, executed.notebook.parent).read_text("utf-8")


@pytest.mark.full
def test_the_result_has_summaries_and_the_memory_of_child_processes_and_no_error(executed):
    assert executed.error is None
    assert executed.summaries == ("mean  84%\n{'answer': 42}",)
    assert executed.seconds > 0
    assert (executed.notebook.parent / "here.txt").exists(), "runs in the notebook's folder"
    assert 450_000_000 < executed.peak_memory < 900_000_000


@pytest.mark.full
def test_the_page_contains_texts_pictures_and_links(executed, page):
    assert executed.executed.with_suffix(".html").name == "03_all.html"
    assert "<title>All of it</title>" in page
    assert 'href="04_next.html#end"' in page
    assert 'href="../../exercises/03/03.ipynb"' in page
    assert "mean  84%" in page
    assert len(re.findall(r"<img[^>]*data:image/png;base64,iVBOR", page)) == 1
    assert "at: 100%" in page and "at:   0%" not in page


@pytest.mark.full
def test_the_page_shows_widgets_without_scripts(page):
    assert re.search(r'<img alt="a bar &amp; a line" src="data:image/png;base64,AAAA"/?>', page)
    for text in ("rank 7", "bits eight", "steps 3 of 5"):
        assert f"<div>{text}</div>" in page
    assert html_pages.WIDGET_VIEW not in page and html_pages.WIDGET_STATE not in page


@pytest.mark.full
def test_the_page_shows_predictions_and_folded_answers(page):
    assert "<strong>Predict.</strong> How large &lt;is&gt; it?" in page
    assert "<li>small</li><li>large</li>" in page
    folded = re.search("<details>.*?</details>", page)[0]
    assert "The answer is 'large'." in folded and "You forgot the activations." in folded
    assert "<strong>Answer. It is large.</strong> See" in page
    assert "No guess has been recorded" not in page
    assert "You didn't enter a guess" not in html.unescape(page)


@pytest.mark.full
def test_the_page_can_be_read_without_a_network(page):
    assert not re.findall(r"<script[^>]*\bsrc=", page)
    assert not re.findall(r'<link[^>]*href="http|@import|<img[^>]*src="http', page)
    assert "<math" in page and "$W' = W + AB$" not in page


@pytest.mark.full
def test_a_formula_that_cannot_be_converted_is_shown_as_tex(monkeypatch):
    cell = text_cell("formulas", "Half: $\\frac{1}{2}$, $\\foo < 1$.")
    formulas = nbformat.from_dict(notebook(cell))
    page = html_pages.to_html(formulas, title="A page")
    assert "<mfrac>" in page and "<code>\\foo &lt; 1</code>" in page
    monkeypatch.setitem(sys.modules, "latex2mathml.converter", None)
    assert "<code>\\frac{1}{2}</code>" in html_pages.to_html(formulas, title="A page")


KILL = "import os, signal\nos.kill(os.getpid(), signal.SIGTERM if os.name == 'nt' else 9)"


@pytest.mark.full
@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("while True: pass", "it was still running after 1 seconds"),
        (KILL, "the kernel died, probably because memory ran out"),
    ],
    ids=["timeout", "dead kernel"],
)
def test_a_cell_that_does_not_end_ends_the_run(tmp_path, source, error):
    path = write_notebook(tmp_path / "n.ipynb", notebook(code_cell("it", source)))
    result = execute(path, tmp_path / "out", timeout=1)
    assert result.error == f"cell it: {error}" and result.executed.exists()


@pytest.mark.full
def test_a_kernel_that_does_not_start_is_reported(tmp_path, monkeypatch):
    (tmp_path / "ipykernel_launcher.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = write_notebook(tmp_path / "n.ipynb", notebook(code_cell("one", "1")))
    result = execute(path, tmp_path / "out")
    assert result.error.startswith("the start of the kernel: ")


def test_a_missing_kernel_raises_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(notebooks.KERNEL, "name", "missing-kernel")
    path = write_notebook(tmp_path / "n.ipynb", notebook(code_cell("one", "1")))
    with pytest.raises(CourseError, match="no Python kernel: run `pip install ipykernel`"):
        execute(path, tmp_path / "out")


@pytest.mark.full
@pytest.mark.skipif(os.name == "nt", reason="on Windows, Ctrl-C goes to all processes of a console")
def test_ctrl_c_ends_the_kernel(tmp_path):
    wait = "import os, time\nopen('pid', 'w').write(f'{os.getpid()}.')\ntime.sleep(600)"
    path = write_notebook(tmp_path / "n.ipynb", notebook(code_cell("waits", wait)))
    call = f"execute({str(path)!r}, {str(tmp_path / 'out')!r})"
    code = f"from course_utils.machine.execution import execute; {call}"
    run = subprocess.Popen(interruptible.python(code), stderr=subprocess.PIPE, text=True)
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text().endswith(".")) and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    assert run.communicate()[1].rstrip().endswith("KeyboardInterrupt")
    assert not psutil.pid_exists(int(pid.read_text().rstrip(".")))


def test_the_executed_notebook_must_not_replace_the_notebook(tmp_path):
    path = write_notebook(tmp_path / "n.ipynb", notebook(code_cell("one", "1")))
    before = path.read_text(encoding="utf-8")
    with pytest.raises(CourseError, match="contains the notebook itself: choose another folder"):
        execute(path, tmp_path)
    assert path.read_text(encoding="utf-8") == before


def test_missing_jupyter_packages_are_named(tmp_path, monkeypatch):
    path = write_notebook(tmp_path / "n.ipynb", notebook())
    for name in ("nbclient", "nbformat"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(CourseError, match=f"{name} is missing: run `pip install nbclient "):
            execute(path, tmp_path / "out")
