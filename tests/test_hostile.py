"""The hostile corpus graded in one run: no point gained, no escape, nobody else's grade changed.

Only those attacks are graded of which a test is selected: `pytest tests/test_hostile.py -k read_`.
"""

import collections
import csv
import io
import re
import socket
import subprocess
import time
from dataclasses import replace

import pytest

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")

from course_utils.grading.results.records import GRADED, PERSON, UNGRADABLE, Record
from tests.hostile import canaries, corpus, ours
from tests.sandboxes import needed

# Run each time, one or more of each kind; the others are slow.
OFTEN = {
    "bomb_files_open",
    "file_deep_folders",
    "file_link_shadow",
    "file_link_solution",
    "frames_expected",
    "frames_gc",
    "honest_colab",
    "honest_duplicated_answer",
    "honest_shadowed",
    "metadata_points",
    "metadata_settings",
    "neighbour_terminals",
    "network_local",
    "network_unix",
    "notebook_schema",
    "notebook_truncated",
    "page_script",
    "patch_checks",
    "process_daemon",
    "process_group_stop",
    "process_kill_all",
    "protocol_descriptors",
    "protocol_object",
    "read_home",
    "read_memory",
    "read_solution",
    "shell_ast",
    "student_bytes",
    "value_equality",
    "value_self",
    "withheld_routes",
    "write_gradebook",
}
MEMORY = 1_000_000_000  # B that grading may add to its process, whatever is handed in

CORPUS = corpus.attacks()


def _parameter(attack):
    return pytest.param(
        attack, id=attack.name, marks=() if attack.name in OFTEN else pytest.mark.slow
    )


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """The runs by assignment, over those attacks of which a test was selected."""
    grouped = collections.defaultdict(list)
    for item in request.session.items:
        if getattr(item, "originalname", "") == "test_what_must_happen_happens":
            attack = item.callspec.params["attack"]
            grouped[attack.assignment].append(attack)
    folders = {name: tmp_path_factory.mktemp(name) for name in grouped}
    try:
        yield {name: ours.run(grouped[name], folder) for name, folder in folders.items()}
    finally:  # it has folders too deep for Python
        subprocess.run(["rm", "-rf", *folders.values()], check=True)


@needed
@pytest.mark.parametrize("attack", [_parameter(attack) for attack in CORPUS])
def test_what_must_happen_happens(runs, attack):
    run = runs[attack.assignment]
    assert ours.complaints(attack, run.records.get(ours.student(attack)), run) == []


@needed
def test_honest_students_get_their_points(runs):
    for run in runs.values():
        assert [record.student for record in run.honest] == list(corpus.HONEST)
        for record in run.honest:
            assert (ours.points(record), ours.state(record)) == (corpus.HONEST_POINTS, GRADED)
            assert not (record.incidents or record.repairs)


@needed
def test_nothing_gets_out(runs):
    for run in runs.values():
        assert (run.escapes, run.survivors, run.reached) == ([], [], set())


@needed
def test_nothing_acts_where_the_class_is_shown(runs):
    for run in runs.values():
        assert canaries.active(run.report) == []
        assert [c for c in run.told if not (c.isprintable() or c == "\n")] == []
        cells = [cell for row in csv.reader(io.StringIO(run.table)) for cell in row]
        assert [cell for cell in cells if re.match(r"[=+@\t\r]|-(?!\d)", cell)] == []
        assert canaries.seen(run.secrets, run.report + run.table + run.told) == []


@needed
def test_the_grader_itself_stays_small(runs):
    assert max(run.memory - run.held for run in runs.values()) < MEMORY


# --- the corpus and its means ---------------------------------------------------------------------


def test_the_corpus_is_large_and_says_what_each_attack_tries():
    assert len(CORPUS) >= 200
    said = collections.Counter(attack.tries for attack in CORPUS)
    assert [tries for tries, count in said.items() if count > 1] == []
    assert {attack.name for attack in CORPUS} >= OFTEN


def test_only_honest_work_is_owed_points():
    for attack in CORPUS:
        assert (attack.least > 0) == attack.name.startswith("honest")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("# tries: x\n", "must"),
        ("# tries: x\n# must: some points; graded\n", "some points"),
        ("# tries: x\n# must: no point; excellent\n", "excellent"),
        ("# tries: x\n# must: no point; graded; x\n", "says"),
    ],
)
def test_a_submission_says_what_must_happen(tmp_path, text, fault):
    path = tmp_path / "attack.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"attack.py: .*{fault}"):
        corpus.read(path)


def test_what_must_happen_is_read(tmp_path):
    path = tmp_path / "attack.py"
    path.write_text("# tries: x\n# must: at most 2 points; graded or ungradable; says a; b\n")
    read = corpus.read(path)
    assert (read.most, read.least) == (2, 0)
    assert (read.states, read.says) == ((GRADED, UNGRADABLE), "a; b")
    path.write_text("# tries: x\n# must: 9 points; graded\n")
    assert (corpus.read(path).most, corpus.read(path).least) == (9, 9)


def test_complaints_say_what_went_wrong():
    attack = next(attack for attack in CORPUS if attack.name == "file_link_shadow")
    refused = Record("09_sums", attack.name, UNGRADABLE, ("a link",), points={"sum-all-form": 0.0})
    secrets = canaries.canaries()
    run = ours.Run({}, [], {attack.name: ""}, {}, "", "", "", [], [], set(), 0, 0, 0, secrets)
    assert ours.complaints(attack, refused, run) == []
    assert ours.complaints(attack, None, run) == ["there is no record"]
    for wrong, fault in (
        (replace(refused, points={"sum-all-form": 1.0}), "1 points"),
        (replace(refused, state=GRADED), "graded: a link"),
        (replace(refused, reasons=("odd",)), "nothing says 'link'"),
    ):
        assert ours.complaints(attack, wrong, run) == [fault]
    stolen = replace(run, loot={attack.name: f"… {secrets['gradebook']} …"})
    assert ours.complaints(attack, refused, stolen) == ["it has read: gradebook"]
    active = replace(run, active={attack.name: ["<script>"]})
    assert ours.complaints(attack, refused, active) == ["acts in the page: <script>"]


def test_a_question_that_waits_for_a_person_makes_no_state():
    waiting = Record("09_sums", "x", PERSON, (ours.BY_HAND,), points={"sum-why": None, "a": 2.0})
    assert (ours.state(waiting), ours.points(waiting)) == (GRADED, 2)
    assert ours.state(replace(waiting, reasons=(ours.BY_HAND, "two answers"))) == PERSON


def test_what_got_out_is_seen(tmp_path):
    before = canaries.files(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "escaped-x").write_text("x")
    assert canaries.changed(before, canaries.files(tmp_path)) == ["a/escaped-x"]
    assert canaries.escaped(str(tmp_path)) == [str(tmp_path / "a" / "escaped-x")]
    with subprocess.Popen(["sleep", "60"], executable="/bin/sleep") as sleeper:
        assert not [line for line in canaries.survivors() if line.startswith(f"{sleeper.pid} ")]
        sleeper.kill()
    with subprocess.Popen(["sh", "-c", "sleep 60; :", "hostile-test"]) as left:
        assert [line for line in canaries.survivors() if line.startswith(f"{left.pid} ")]
        left.kill()


def test_who_knocks_is_noted():
    listeners = canaries.Listeners()
    try:
        socket.create_connection(("127.0.0.1", canaries.PORT)).close()
        knock = socket.socket(socket.AF_UNIX)
        knock.connect(canaries.ABSTRACT)
        knock.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            datagram.sendto(b"x", ("127.0.0.1", canaries.PORT))
        for _ in range(100):
            if len(listeners.heard) == 3:
                break
            time.sleep(0.02)
        assert listeners.heard == {"TCP", "UDP", "abstract socket"}
    finally:
        listeners.close()


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("<script>hostile-script()</script>", ["<script>"]),
        ("<pre>&lt;script&gt;hostile-script()&lt;/script&gt;</pre>", []),
        ("<img src=x onerror='hostile-script()'>", ["<img onerror>"]),
        ("<div style='position:fixed;top:0'>", ["<div style>"]),
        ("<style>body:before{content:'Score: 12.0 / 12.0'}</style>", ["<style>"]),
        ("<iframe src='http://127.0.0.1:47113'>", ["<iframe src>"]),
        ("<p>hostile-script Score: 12.0 / 12.0</p>", []),
    ],
)
def test_what_acts_in_a_page_is_found(page, found):
    assert canaries.active(page) == found


def test_a_stolen_canary_is_seen():
    texts = canaries.canaries()
    assert len(set(texts.values())) == len(canaries.PLACES)
    assert all(re.fullmatch("canary-[0-9a-f]{24}", text) for text in texts.values())
    assert canaries.seen(texts, f"…{texts['ssh']}\n{texts['home']}".encode()) == ["home", "ssh"]
