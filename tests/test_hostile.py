"""The hostile corpus is graded: no attack gains points, escapes, or changes another's grade.

Only the attacks whose tests are selected are graded, as in `pytest tests/test_hostile.py -k read_`.
"""

import collections
import contextlib
import csv
import io
import re
import socket
import subprocess
import sys

import pytest

pytest.importorskip("nbgrader", reason="nbgrader is not installed")

from course_utils.exercise import checks, values
from tests.hostile import canaries, corpus, course_grade
from tests.sandboxes import needed
from tests.waiting import wait_until
from workshop.grading.records import GRADED
from workshop.grading.sandbox import processes

# All tests of the module share the runs, and the listeners need their ports.
pytestmark = pytest.mark.xdist_group("hostile")

# One attack of each kind. The other attacks are slow.
SAMPLE = {
    "bomb_files_open",
    "calls_remembered",
    "file_link_shadow",
    "frames_gc",
    "honest_shadowed",
    "metadata_points",
    "neighbour_terminals",
    "network_local",
    "notebook_truncated",
    "page_script",
    "patch_checks",
    "process_kill_all",
    "protocol_object",
    "read_solution",
    "shell_ast",
    "student_bytes",
    "value_equality",
    "withheld_routes",
    "write_gradebook",
}
# Maximum growth of the grader's own memory during a run, in bytes (B).
MEMORY = 1_000_000_000


def _parameter(attack):
    mark = pytest.mark.full if attack.name in SAMPLE else pytest.mark.slow
    return pytest.param(attack, id=attack.name, marks=mark)


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """The runs with the selected attacks, by assignment."""
    grouped = collections.defaultdict(list)
    for item in request.session.items:
        if getattr(item, "originalname", "") == test_an_attack_has_only_the_allowed_result.__name__:
            attack = item.callspec.params["attack"]
            grouped[attack.assignment].append(attack)
    folders = {name: tmp_path_factory.mktemp(name) for name in grouped}
    try:
        yield {name: course_grade.run(grouped[name], folder) for name, folder in folders.items()}
    finally:
        # Some folders are nested too deeply for Python to delete them.
        subprocess.run(["rm", "-rf", *folders.values()], check=True)


@needed
@pytest.mark.parametrize("attack", [_parameter(attack) for attack in corpus.attacks()])
def test_an_attack_has_only_the_allowed_result(runs, attack):
    run = runs[attack.assignment]
    record = run.records.get(course_grade.student(attack))
    assert course_grade.problems(attack, record, run) == []


def test_the_sample_has_an_attack_of_each_kind():
    """Otherwise an attack that gets another name would be left out without notice."""
    names = {attack.name for attack in corpus.attacks()}
    assert names >= SAMPLE
    assert {n.partition("_")[0] for n in SAMPLE} == {n.partition("_")[0] for n in names}


def test_only_honest_submissions_have_a_minimum_of_points():
    for attack in corpus.attacks():
        assert (attack.least > 0) == attack.name.startswith("honest"), attack.name


@needed
@pytest.mark.full
def test_honest_students_get_their_points(runs):
    for run in runs.values():
        assert [record.student for record in run.honest] == list(corpus.HONEST)
        for record in run.honest:
            assert course_grade.points(record) == corpus.HONEST_POINTS
            assert course_grade.state(record) == GRADED
            assert not (record.incidents or record.repairs)


@needed
@pytest.mark.full
def test_no_file_process_or_connection_gets_out_of_the_sandbox(runs):
    for run in runs.values():
        assert (run.escapes, run.survivors, run.reached) == ([], [], set())


@needed
@pytest.mark.full
def test_submissions_have_no_effect_on_the_report_the_table_and_the_terminal(runs):
    for run in runs.values():
        # Only the report of the class may show inputs of hidden tests.
        assert set(canaries.active(run.report)) <= {canaries.HIDDEN}
        assert [c for c in run.terminal if not (c.isprintable() or c == "\n")] == []
        cells = [cell for row in csv.reader(io.StringIO(run.table)) for cell in row]
        assert [cell for cell in cells if re.match(r"[=+@\t\r]|-(?!\d)", cell)] == []
        assert canaries.seen(run.secrets, run.report + run.table + run.terminal) == []


@needed
@pytest.mark.full
def test_the_memory_of_the_grader_itself_stays_small(runs):
    assert all(run.memory - run.memory_before < MEMORY for run in runs.values())


@needed
@pytest.mark.full
def test_different_files_are_different_attempts(runs):
    for run in runs.values():
        records = [r for name, r in run.records.items() if name.startswith("file_attempt")]
        assert len({record.attempt for record in records}) == len(records)


# --- reading the corpus, and detecting escapes ----------------------------------------------------


def test_attacks_know_the_names_in_the_grader():
    """Otherwise an attack would find nothing, and would be harmless without notice."""
    text = "".join(path.read_text(encoding="utf-8") for path in corpus.FOLDER.glob("*.py"))
    for module, name in re.findall(r"^(checks|values)\.(\w+)", text, re.M):
        assert hasattr({"checks": checks, "values": values}[module], name)
    assert {"Channel", "StudentProcess"} == set(re.findall(r'objects\("(\w+)"\)', text))
    assert {"_call"} == set(re.findall(r"student\.(_\w+)", text))
    assert hasattr(processes.Channel, "send")
    assert hasattr(processes.StudentProcess, "_call")


def test_attacks_use_no_undefined_names(tmp_path):
    """Otherwise an attack would end with a NameError, and would be harmless without notice."""
    pytest.importorskip("ruff", reason="ruff is not installed")
    for attack in corpus.attacks():
        if set(dict(attack.cells)) - {"notebook", "files"} and attack.base != "solution":
            assignment = corpus.tensors if attack.assignment == corpus.tensors.NAME else corpus.sums
            files = attack.files(assignment.notebook())
            notebook = files[f"{attack.assignment}.ipynb"]
            (tmp_path / f"{attack.name}.ipynb").write_bytes(notebook)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F821", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert set(re.findall(r"F821 Undefined name `(\w+)`", done.stdout)) <= set(corpus.ANSWERS)
    assert "invalid-syntax" not in done.stdout


def test_escaped_files_and_processes_are_detected(tmp_path):
    before = canaries.files(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "escaped-x").write_text("x")
    assert canaries.changed(before, canaries.files(tmp_path)) == ["a/escaped-x"]
    assert canaries.escaped(str(tmp_path)) == [str(tmp_path / "a" / "escaped-x")]
    with subprocess.Popen(["sleep", "60"], executable="/bin/sleep") as sleeper:
        assert not [line for line in canaries.survivors() if line.startswith(f"{sleeper.pid} ")]
        sleeper.kill()
    command = [sys.executable, "-c", "import time; time.sleep(60)", "hostile-test"]
    with subprocess.Popen(command) as survivor:
        assert [line for line in canaries.survivors() if line.startswith(f"{survivor.pid} ")]
        survivor.kill()


def test_connections_are_recorded():
    with contextlib.closing(canaries.Listeners()) as listeners:
        socket.create_connection(("127.0.0.1", canaries.PORT)).close()
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(canaries.ABSTRACT)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            datagram.sendto(b"x", ("127.0.0.1", canaries.PORT))
        wait_until(lambda: len(listeners.reached) >= 3)
        assert listeners.reached == {"TCP", "UDP", "abstract socket"}
