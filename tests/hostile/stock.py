"""One attack on stock nbgrader, in a container; and what it got by it.

    python -m tests.hostile.stock NAME     prints what became of tests/hostile/submissions/NAME.py

In one batch nbgrader grades an honest student, the attacker, and an honest student again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.hostile import box, canaries, corpus
from tests.mutation import ROOT

MODULE = "tests.hostile.stock"
SETTINGS = """\
c = get_config()
c.CourseDirectory.course_id = "qlora"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
"""
LIMIT, CELL = 90, 20  # seconds for the batch, and for a cell
COURSE = box.HOME / "course"
GRADERS = ("autograded", "feedback", "gradebook.db", "gradebook.db-journal", ".nbgrader.log")
LOG = Path("/run/nbgrader.log")  # only the harness can reach it


@dataclass(frozen=True)
class Result:
    """What became of one attack.

    points: of the attacker; None if there is no grade. others: of the honest students.
    ended: whether the batch came to its end by itself. code: nbgrader's exit status.
    stolen: places whose canaries were seen. escapes: files changed or left outside.
    survivors: processes that were left. reached: listeners that were. active: what of the notebook
    would act in the feedback page. log: nbgrader's last lines.
    """

    points: float | None = None
    others: tuple[float | None, ...] = (None, None)
    ended: bool = False
    code: int | None = None
    seconds: float = 0.0
    stolen: tuple[str, ...] = ()
    escapes: tuple[str, ...] = ()
    survivors: tuple[str, ...] = ()
    reached: tuple[str, ...] = ()
    active: tuple[str, ...] = ()
    log: str = field(default="", repr=False)

    @classmethod
    def of(cls, content: dict[str, Any]) -> Result:
        """A result from what JSON makes of one."""
        lists = {key: tuple(value) for key, value in content.items() if type(value) is list}
        return cls(**content | lists)

    @property
    def unharmed(self) -> bool:
        """Whether the other students got their points."""
        return all(points == corpus.HONEST_POINTS for points in self.others)


# --- outside --------------------------------------------------------------------------------------


def template(folder: Path, secrets: dict[str, str]) -> Path:
    """A course for each assignment of the corpus, with honest submissions, in `folder`.

    Its settings are nbgrader's own: those of this repository have submissions graded elsewhere.
    """
    for name in (corpus.sums.NAME, corpus.tensors.NAME):
        course = corpus.course(ROOT, folder / name, name, secrets)
        corpus.hide_in_gradebook(course, secrets)
        (course / "nbgrader_config.py").write_text(SETTINGS, encoding="utf-8")  # not this course's
    return folder


def attack(name: str, prepared: Path, secrets: dict[str, str]) -> Result:
    """Run one attack against stock nbgrader. prepared: what `template` made, with these secrets."""
    shadow = f"root:{secrets['shadow']}:20000:0:99999:7:::\n"
    given = json.dumps(secrets)
    printed = box.run(MODULE, ["--inside", name], given, prepared, shadow, LIMIT + 150)
    if printed is None:
        return Result(log="the container had to be ended")
    return Result.of(json.loads(printed))


# --- in the container -----------------------------------------------------------------------------


def inside(name: str, secrets: dict[str, str]) -> Result:
    """Prepare the course, have it graded, and look."""
    attack = corpus.read(corpus.FOLDER / f"{name}.py")
    shutil.copytree(Path("/template") / attack.assignment, COURSE)
    corpus.write(attack, COURSE)
    canaries.plant(box.HOME, secrets)
    _give(box.HOME)
    reaper = _Reaper()
    listeners = canaries.Listeners()
    before = canaries.files(COURSE, GRADERS)
    started = time.monotonic()
    with LOG.open("wb") as log:
        code = _nbgrader(log, secrets, "autograde", attack.assignment, f"--Execute.timeout={CELL}")
    seconds = time.monotonic() - started
    time.sleep(0.5)
    reaper.stop()
    survivors = canaries.survivors()
    reaper.reap()
    escapes = canaries.changed(before, canaries.files(COURSE, GRADERS))
    points = _points(attack.assignment)
    loot = _loot(attack)
    return Result(
        points=points.get(attack.student),
        others=tuple(points.get(student) for student in corpus.HONEST),
        ended=code is not None,
        code=code,
        seconds=round(seconds, 1),
        stolen=tuple(canaries.seen(secrets, loot)),
        escapes=(*escapes, *canaries.escaped("/tmp", "/dev/shm", "/var/tmp", str(box.HOME))),
        survivors=tuple(survivors),
        reached=tuple(sorted(listeners.heard)),
        active=_page(attack, secrets),
        log=LOG.read_bytes()[-3000:].decode("utf-8", "replace"),
    )


def _give(folder: Path) -> None:
    """Hand a folder over to the user who grades; links aren't followed."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, box.USER, box.USER, follow_symlinks=False)


def _as_grader(*command: str) -> list[str]:
    rights = ["--reuid", str(box.USER), "--regid", str(box.USER), "--clear-groups"]
    first = 'echo 1000 > /proc/self/oom_score_adj; exec "$@"'  # to go first, before the harness
    return ["setpriv", *rights, "--", "sh", "-c", first, "grader", *command]


def _nbgrader(log: Any, secrets: dict[str, str], command: str, *options: str) -> int | None:
    """Run one of nbgrader's commands; its exit status, None if it took too long."""
    variables = {"HOME": str(box.HOME), canaries.TOKEN: secrets["environment"]}
    process = subprocess.Popen(
        _as_grader("nbgrader", command, *options, "--course-dir", str(COURSE)),
        cwd=COURSE,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        return None


def _page(attack: corpus.Attack, secrets: dict[str, str]) -> tuple[str, ...]:
    """What of the notebook acts in nbgrader's feedback page, for those that try that."""
    if not attack.name.startswith("page"):
        return ()
    _nbgrader(subprocess.DEVNULL, secrets, "generate_feedback", attack.assignment)
    page = COURSE / "feedback" / attack.student / attack.assignment / f"{attack.assignment}.html"
    return tuple(canaries.active(page.read_text(encoding="utf-8"))) if page.is_file() else ()


class _Reaper:
    """A process that waits as root, where nobody can end it, to stop all of the grader's user.

    It is there before a fork bomb can take the last number of a process. One signal for all at once
    leaves none to fork meanwhile; those that are stopped can be looked at, and leave the processor.
    """

    def __init__(self) -> None:
        waits, self._calls = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._calls)
            os.read(waits, 1)
            os.setresuid(box.USER, box.USER, box.USER)
            for number in (signal.SIGSTOP, signal.SIGKILL):
                with contextlib.suppress(OSError):
                    os.kill(-1, number)
                os.read(waits, 1)
            os._exit(0)

    def stop(self) -> None:
        """Let none of them go on."""
        os.write(self._calls, b"s")
        time.sleep(0.3)

    def reap(self) -> None:
        """End them all."""
        os.close(self._calls)
        os.waitpid(self._pid, 0)
        time.sleep(0.2)


def _points(assignment: str) -> dict[str, float]:
    """Points of every student who has a grade, read by the grader's user."""
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
    """Points of every student who has a grade."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{COURSE / 'gradebook.db'}", "qlora") as book:
        found = book.assignment_submissions(assignment)
        return {one.student.id: one.score for one in found}


def _loot(attack: corpus.Attack) -> bytes:
    """All that the attacker's student would get to see, or has put into the folder."""
    graded = COURSE / "autograded" / attack.student / attack.assignment
    parts = [canaries.put_out(graded / f"{attack.assignment}.ipynb").encode()]
    for path in graded.rglob("*"):
        if path.suffix != ".ipynb" and path.is_file():
            with path.open("rb") as file:
                parts.append(file.read(1_000_000))
    return b"\n".join(parts)


def main() -> None:
    if sys.argv[1] == "--inside":
        print(json.dumps(asdict(inside(sys.argv[2], json.loads(sys.stdin.read())))))
    elif sys.argv[1] == "--points":
        print(json.dumps(points(sys.argv[2])))
    else:
        secrets = canaries.canaries()
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            result = attack(sys.argv[1], template(Path(folder), secrets), secrets)
        print(result, result.log, sep="\n\n")


if __name__ == "__main__":
    main()
