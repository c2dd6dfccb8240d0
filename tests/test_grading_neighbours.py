"""Two submissions in one server at a time: one attacks, and the other notices nothing."""

import json
import os
import shutil

import pytest

from course_utils.grading.sandbox.bubblewrap import NOBODY
from tests import assignment as sums
from tests.hostile import corpus
from tests.sandboxes import needed, printed, referee, said, servers

pytestmark = needed

# What an honest submission does with all that processes of one system have in common. Each cell
# prints its last word if all is as it would be alone.
HONEST = {
    "a command in a terminal": "!echo fine; sleep 0.2; stty size > /dev/null || true; echo fine",
    "a terminal": """
        import os, tty
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        os.write(theirs, b"fine")
        print(os.read(ours, 100).decode())
        """,
    "files of the course": """
        import glob
        paths = glob.glob("/course/course_utils/**/*.py", recursive=True)
        sources = [open(path).read() for path in paths]
        print("fine" if len(sources) > 20 else sources)
        """,
    "a lock": """
        import warnings
        from filelock import FileLock
        warnings.simplefilter("ignore")
        with FileLock("own.lock", timeout=1):
            print("fine")
        """,
    "no lock on a file that others read": """
        import fcntl
        try:
            fcntl.flock(open("/course/course_utils/units.py"), fcntl.LOCK_SH)
        except OSError as fault:
            print("fine" if fault.strerror == "Function not implemented" else fault)
        """,
    "a database": """
        import sqlite3
        with sqlite3.connect("own.db") as own:
            own.execute("create table words (word)")
            own.execute("insert into words values ('fine')")
            print(*own.execute("select word from words").fetchone())
        """,
    "timers, each of which keeps a signal": """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        made = [libc.timer_create(1, None, ctypes.byref(ctypes.c_void_p())) for _ in range(100)]
        print("fine" if set(made) == {0} else os.strerror(ctypes.get_errno()))
        """,
    "shared memory": """
        from multiprocessing import shared_memory
        for name in ("qlora", "psm_qlora"):
            shared_memory.SharedMemory(name, create=True, size=4096).unlink()
        print("fine")
        """,
    "System V's objects": """
        made = [libc.shmget(0x514C, 4096, 0o3600), libc.semget(0x514C, 1, 0o3600)]
        print("fine" if min(made) >= 0 else made)
        """,
    "abstract sockets": """
        import socket
        own = socket.socket(socket.AF_UNIX)
        own.bind("\\0qlora")
        print("fine")
        """,
    "several processes": """
        import multiprocessing
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print("fine" if pool.map(abs, [-1, -2]) == [1, 2] else "wrong")
        """,
}
ATTACKS = corpus.attacks("neighbour_")
RELEASE = sums.notebook()


@pytest.fixture(scope="module", autouse=True)
def files_of_the_grader():
    """The course's files belong to whom the submissions run as, as where nobody grades as root."""
    if os.geteuid() == 0:
        package = servers()[0]._package
        for path in (package, *package.rglob("*")):
            shutil.chown(path, NOBODY)


def own_cells(attack):
    """The cells of its own that an attack brings: the first attacks, the last tells what it saw."""
    notebook = json.loads(attack.files(RELEASE)[f"{sums.NAME}.ipynb"])
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["id"].startswith("own-")]
    assert len(cells) == 2
    return cells


def dedented(cell):
    lines = cell.strip("\n").split("\n")
    return "\n".join(line.removeprefix(" " * 8) for line in lines)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_honest_neighbour_notices_nothing_and_tells_nothing(attack):
    begin, look = own_cells(attack)
    with referee() as hostile, referee() as honest:
        begun = said(hostile.run(begin))
        for what, cell in HONEST.items():
            assert said(honest.run(dedented(cell), what)).split()[-1:] == ["fine"], (what, begun)
        assert honest.incidents == []
        told = said(hostile.run(look))
        assert hostile.incidents == [], begun
    _, mark, learned = told.partition("learned:")
    assert (mark, learned.strip()) == ("learned:", ""), told


def test_honest_work_is_fine_alone():
    with referee() as honest:
        for what, cell in HONEST.items():
            assert said(honest.run(dedented(cell), what)).split()[-1:] == ["fine"], what


def test_nothing_that_can_be_written_is_inherited_from_the_server():
    found = printed(
        """
        import os, re, resource
        maps = [line for line in open("/proc/self/maps") if re.match(r"\\S+ .w.s", line)]
        links = {os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)}
        print(maps, links, resource.getrlimit(resource.RLIMIT_SIGPENDING))
        """.replace("\n        ", "\n")
    )
    assert found.strip() == "[] {'/dev/null'} (1000, 1000)"


def test_terminals_have_a_file_system_of_their_own():
    cell = "import os; own = os.openpty(); print(os.ttyname(own[1]), os.stat('/dev/pts').st_dev)"
    with referee() as one, referee() as other:
        found = [said(each.run(cell)).split() for each in (one, other)]
    assert [name for name, _ in found] == ["/dev/pts/0", "/dev/pts/0"]
    assert len({device for _, device in found}) == 2


def test_attacks_on_neighbours_are_in_the_corpus():
    assert len(ATTACKS) >= 7
    assert servers()[0].warm, "without a warm server there are no neighbours to test"
