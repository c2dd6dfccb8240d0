"""Grade an attack with stock nbgrader in a container, and collect the results.

In one batch, nbgrader grades an honest student, the attacker, and another honest student.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.hostile import canaries, container, corpus

MODULE = "tests.hostile.stock"
SETTINGS = """\
c = get_config()
c.CourseDirectory.course_id = "qlora"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
"""
# Maximum time for the batch and for a cell, in seconds.
BATCH_TIMEOUT, CELL_TIMEOUT = 90, 20
COURSE = container.HOME / "course"
GRADING_FILES = ("autograded", "feedback", "gradebook.db", "gradebook.db-journal", ".nbgrader.log")
# Only the harness can access this file.
LOG = Path("/run/nbgrader.log")


@dataclass(frozen=True)
class Result:
    """The results of one attack.

    Attributes:
        points: The attacker's points; None without a grade.
        others: The points of the honest students; None without a grade.
        ended: Whether the batch ended within the time limit.
        stolen: The places whose canaries the attack has read.
        escapes: Files that were changed or left outside of the submission.
        survivors: Processes that are still running.
        reached: Listeners that were reached.
        active: The elements of the feedback page by which the attack would affect the page.
        log: The end of nbgrader's log.
    """

    points: float | None = None
    others: Sequence[float | None] = (None, None)
    ended: bool = False
    stolen: Sequence[str] = ()
    escapes: Sequence[str] = ()
    survivors: Sequence[str] = ()
    reached: Sequence[str] = ()
    active: Sequence[str] = ()
    log: str = ""


# --- on this machine ------------------------------------------------------------------------------


def template(folder: Path, secrets: dict[str, str]) -> Path:
    """Create a course with honest submissions for each assignment of the corpus, in `folder`.

    The courses have nbgrader's default settings, because the settings of this repository replace
    nbgrader's autograding.
    """
    for name in (corpus.sums.NAME, corpus.tensors.NAME):
        course = corpus.course(folder / name, name, secrets)
        (course / "nbgrader_config.py").write_text(SETTINGS, encoding="utf-8")
    return folder


def attack(name: str, prepared: Path, secrets: dict[str, str]) -> Result:
    """Grade one attack with stock nbgrader in a new container.

    Args:
        name: The attack's name.
        prepared: The folder that `template` returned.
        secrets: The canaries in that folder.
    """
    shadow = f"root:{secrets['shadow']}:20000:0:99999:7:::\n"
    command = ["-m", MODULE, "--inside", name]
    output = container.run(command, json.dumps(secrets), prepared, shadow, BATCH_TIMEOUT + 150)
    if output is None:
        return Result(log="the container was ended because of an error or the time limit")
    return Result(**json.loads(output))


# --- in the container -----------------------------------------------------------------------------


def inside(name: str, secrets: dict[str, str]) -> Result:
    """Prepare the course, grade it, and collect the results."""
    attack = next(attack for attack in corpus.attacks(name) if attack.name == name)
    shutil.copytree(Path("/template") / attack.assignment, COURSE)
    corpus.write(attack, COURSE, attack.student)
    canaries.plant(container.HOME, secrets)
    _change_owner(container.HOME)
    listeners = canaries.Listeners()
    before = canaries.files(COURSE, GRADING_FILES)
    with LOG.open("wb") as log:
        options = (attack.assignment, f"--Execute.timeout={CELL_TIMEOUT}")
        ended = _nbgrader(log, secrets, "autograde", *options)
    time.sleep(0.5)
    # Stopped processes can't fork, can be examined, and use no processor time.
    _signal_all(signal.SIGSTOP)
    survivors = canaries.survivors()
    _signal_all(signal.SIGKILL)
    escapes = canaries.changed(before, canaries.files(COURSE, GRADING_FILES))
    points = _points(attack.assignment)
    outputs = _outputs(attack)
    return Result(
        points=points.get(attack.student),
        others=[points.get(student) for student in corpus.HONEST],
        ended=ended,
        stolen=canaries.seen(secrets, outputs),
        escapes=[*escapes, *canaries.escaped("/tmp", "/dev/shm", "/var/tmp", str(container.HOME))],
        survivors=survivors,
        reached=sorted(listeners.reached),
        active=_page(attack, secrets),
        log=LOG.read_bytes()[-3000:].decode("utf-8", "replace"),
    )


def _change_owner(folder: Path) -> None:
    """Make the user who grades the owner of a folder and its files, without following links."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, container.USER, container.USER, follow_symlinks=False)


def _as_grader(*command: str) -> list[str]:
    user = ["--reuid", str(container.USER), "--regid", str(container.USER), "--clear-groups"]
    # If the memory is exhausted, the kernel kills these processes rather than the harness.
    script = 'echo 1000 > /proc/self/oom_score_adj; exec "$@"'
    return ["setpriv", *user, "--", "sh", "-c", script, "grader", *command]


def _nbgrader(log: Any, secrets: dict[str, str], command: str, *options: str) -> bool:
    """Run a command of nbgrader, and return whether it ended within the time limit."""
    variables = {"HOME": str(container.HOME), canaries.TOKEN: secrets["environment"]}
    process = subprocess.Popen(
        _as_grader("nbgrader", command, *options, "--course-dir", str(COURSE)),
        cwd=COURSE,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(BATCH_TIMEOUT)
    return process.poll() is not None


def _page(attack: corpus.Attack, secrets: dict[str, str]) -> list[str]:
    """Return by which elements the attack affects nbgrader's feedback page, if it tries to."""
    if not attack.name.startswith("page"):
        return []
    _nbgrader(subprocess.DEVNULL, secrets, "generate_feedback", attack.assignment)
    page = COURSE / "feedback" / attack.student / attack.assignment / f"{attack.assignment}.html"
    return canaries.active(page.read_text(encoding="utf-8")) if page.is_file() else []


def _signal_all(number: signal.Signals) -> None:
    """Send a signal to all processes of the user who grades, until no new process appears."""
    reached: set[psutil.Process] = set()
    while running := {p for p in psutil.process_iter(["uids"]) if _is_graders(p)} - reached:
        for process in running:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        reached |= running


def _is_graders(process: psutil.Process) -> bool:
    return bool(process.info["uids"]) and process.info["uids"].real == container.USER


def _points(assignment: str) -> dict[str, float]:
    """Run `points` as the user who grades, and return the result."""
    done = subprocess.run(
        _as_grader(sys.executable, "-m", MODULE, "--points", assignment),
        cwd="/tmp",
        env={**os.environ, "HOME": "/tmp"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}


def points(assignment: str) -> dict[str, float]:
    """Return the points of all students with a grade."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{COURSE / 'gradebook.db'}", "qlora") as book:
        submissions = book.assignment_submissions(assignment)
        return {submission.student.id: submission.score for submission in submissions}


def _outputs(attack: corpus.Attack) -> bytes:
    """Return the outputs of the graded notebook and the contents of the files beside it."""
    graded = COURSE / "autograded" / attack.student / attack.assignment
    parts = [canaries.outputs(graded / f"{attack.assignment}.ipynb").encode()]
    for path in graded.rglob("*"):
        if path.suffix != ".ipynb" and path.is_file():
            with path.open("rb") as file:
                parts.append(file.read(1_000_000))
    return b"\n".join(parts)


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        print(json.dumps(asdict(inside(sys.argv[2], json.loads(sys.stdin.read())))))
    else:
        print(json.dumps(points(sys.argv[2])))
