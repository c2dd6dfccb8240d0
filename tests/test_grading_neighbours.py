"""One submission attacks another one that the same server has forked, without any effect."""

import json
import os
import shutil
import textwrap

import pytest

from tests import assignment as sums
from tests.hostile import corpus
from tests.sandboxes import needed, printed, servers, session, text_of
from workshop.grading.sandbox.bubblewrap import NOBODY

pytestmark = [needed, pytest.mark.xdist_group("sandbox")]

# Cells of an honest submission that use the resources that processes of one system share. Each cell
# prints "fine" as its last word if the cell works as it does without a neighbour.
HONEST_CELLS = {
    "a command in a terminal": "!echo fine; sleep 0.2; stty size > /dev/null || true; echo fine",
    "a terminal": """
        import os, tty
        master, terminal = os.openpty()
        tty.setraw(terminal)
        os.write(terminal, b"fine")
        print(os.read(master, 100).decode())
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
    "a database": """
        import sqlite3
        with sqlite3.connect("own.db") as own:
            own.execute("create table words (word)")
            own.execute("insert into words values ('fine')")
            print(*own.execute("select word from words").fetchone())
        """,
    "timers, each of which needs a pending signal": """
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
    "a System V semaphore": """
        made = libc.semget(0x514C, 1, 0o3600)
        print("fine" if made >= 0 else os.strerror(ctypes.get_errno()))
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
RELEASE = sums.notebook()


@pytest.fixture(scope="module", autouse=True)
def package_of_the_submissions_user():
    """Let the copy of the course belong to the user of the submissions, as without root."""
    if os.geteuid() == 0:
        package = servers().get("student")._package
        for path in (package, *package.rglob("*")):
            shutil.chown(path, NOBODY)


def own_cells(attack):
    """Return the attack's own cells: its tools, its attack, and one that prints what it learned."""
    notebook = json.loads(attack.files(RELEASE)[f"{sums.NAME}.ipynb"])
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["id"].startswith("own-")]
    assert len(cells) == 3
    return cells


def assert_fine(session):
    """Run the honest cells, and check that each of them works."""
    for name, cell in HONEST_CELLS.items():
        text = text_of(session.run(textwrap.dedent(cell), name))
        assert text.split()[-1:] == ["fine"], (name, text)
    assert session.incidents == []


@pytest.mark.full
@pytest.mark.parametrize("attack", corpus.attacks("neighbour_"), ids=lambda each: each.name)
def test_an_attack_neither_disturbs_nor_observes_a_neighbour(attack):
    tools, begin, report = own_cells(attack)
    with session() as hostile, session() as honest:
        begun = text_of(hostile.run(tools) + hostile.run(begin))
        assert_fine(honest)
        text = text_of(hostile.run(report))
        assert hostile.incidents == [], begun
    _, mark, learned = text.partition("learned:")
    assert (mark, learned.strip()) == ("learned:", ""), text


def test_the_honest_cells_work_without_a_neighbour():
    with session() as honest:
        assert_fine(honest)


def test_nothing_writable_is_inherited_from_the_server():
    cell = "import os, re\nprint(re.findall(r'\\S+ .w.s.*', open('/proc/self/maps').read()),"
    text = printed(cell + "{os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)})")
    assert text == "[] {'/dev/null'}\n"


def test_each_submission_has_its_own_file_system_of_terminals():
    cell = "import os; own = os.openpty(); print(os.ttyname(own[1]), os.stat('/dev/pts').st_dev)"
    with session() as one, session() as other:
        terminals = [text_of(each.run(cell)).split() for each in (one, other)]
    assert [name for name, _ in terminals] == ["/dev/pts/0", "/dev/pts/0"]
    assert len({device for _, device in terminals}) == 2
