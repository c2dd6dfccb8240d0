"""The sandbox: what a student process can see and do, and that nothing of it is left."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from tests.sandboxes import QUICK, needed, printed, servers, session, text_of
from tests.waiting import wait_until
from workshop.grading.sandbox import bubblewrap
from workshop.grading.sandbox.bubblewrap import SandboxError
from workshop.grading.sandbox.server import Server

pytestmark = pytest.mark.xdist_group("sandbox")
ROOT = Path(__file__).resolve().parents[1]

# --- what the process can access ------------------------------------------------------------------


@needed
def test_other_files_of_this_machine_are_missing():
    names = printed("import os\nprint(os.listdir('/'))")
    for name in ("home", "var", "srv", "mnt", "media", "opt", "boot"):
        assert f"'{name}'" not in names
    paths = ["/etc/passwd", "/etc/shadow", str(ROOT / "solutions"), str(ROOT / "gradebook.db")]
    paths += [os.path.expanduser("~/.ssh"), os.path.expanduser("~/.jupyter")]
    assert printed(f"import os\nprint([os.path.exists(p) for p in {paths}])") == f"{[False] * 6}\n"


@needed
def test_the_system_and_the_packages_cannot_be_changed():
    with session() as running:
        for path in ("/", "/usr", "/dev", "/course", "/etc", "/proc/sys/kernel", sys.prefix):
            assert "Error" in text_of(running.run(f"open('{path}/canary', 'w')")), path
        text = text_of(
            running.run("import os; os.remove('/course/course_utils/exercise/checks.py')")
        )
    assert "Read-only" in text


@needed
def test_system_calls_of_administrators_are_refused():
    code = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.unshare(0x10000000), libc.mount(b"none", b"/tmp", b"tmpfs", 0, 0))
        print(libc.ptrace(16, 1, 0, 0), libc.chroot(b"/tmp"))
        """
    assert printed(textwrap.dedent(code)) == "-1 -1\n-1 -1\n"


@needed
def test_there_is_no_network():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)"
        assert "Error" in printed(code)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert "gaierror" in printed("import socket\nsocket.getaddrinfo('example.org', 80)")
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0course-canary")
        abstract.listen()
        code = "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0course-canary')"
        assert "refused" in printed(code)


@needed
def test_no_file_descriptor_of_the_server_is_open():
    code = "import os\nprint(sorted(int(d) for d in os.listdir('/proc/self/fd'))[:-1])"
    assert printed(code) == "[0, 1, 2, 3]\n"


@needed
def test_submissions_do_not_share_files_sockets_or_processes():
    with session() as one, session() as other:
        one.run("open('/tmp/mine', 'w').write('x'); open('/dev/shm/mine', 'w').write('x')")
        one.run("import socket\ns = socket.create_server(('127.0.0.1', 9999))")
        files = other.run("import os\nprint(os.listdir('/tmp'), os.listdir('/dev/shm'))")
        assert text_of(files) == "['work'] []\n"
        connect = "import socket\nsocket.create_connection(('127.0.0.1', 9999), 1)"
        assert "Error" in text_of(other.run(connect)) and "Error" not in text_of(one.run(connect))
        processes = other.run("print([p for p in os.listdir('/proc') if p.isdigit()])")
        assert text_of(processes) == "['1']\n"


# --- the end of the processes ---------------------------------------------------------------------


@needed
@pytest.mark.parametrize("number", ["SIGKILL", "SIGSTOP"])
def test_a_signal_to_the_process_group_does_not_reach_the_server(number):
    """A forked process belongs to the server's process group, even in its own PID namespace."""
    with session() as one, session() as other:
        other.run("x = 5")
        one.run(f"import os, signal\nos.kill(0, signal.{number})\nos.killpg(0, signal.{number})")
        assert text_of(other.run("print(x)")) == "5\n"
    assert printed("print(1)") == "1\n"


@needed
def test_all_processes_of_a_submission_are_ended():
    code = """
        import subprocess, sys
        for _ in range(3):
            subprocess.Popen(["sleep", "300"], start_new_session=True)
        """
    process = servers().get("student").start("student", QUICK)
    process.channel.send("run", textwrap.dedent(code).encode(), n=1)
    assert process.channel.receive().kind == "done"
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) == 3 and process.end() == ""
    assert psutil.wait_procs(started, 60)[1] == []


@needed
@pytest.mark.full
def test_all_processes_end_if_the_grader_is_killed(tmp_path):
    """The server doesn't notice it itself, because it is still importing."""
    code = (
        "from workshop.grading.sandbox.server import Server as S; S('import time; time.sleep(300)')"
    )
    # A grader that is killed can't delete its copy of the package.
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    grader = psutil.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
    started = []

    def importing():
        started[:] = grader.children(recursive=True)
        return any("python" in process.name() for process in started)

    # Starting Python can take minutes on a busy machine.
    assert wait_until(importing, 300), [(p.name(), p.status(), p.pid) for p in started]
    grader.kill()
    grader.wait()
    assert psutil.wait_procs(started, 60)[1] == []


# --- other machines -------------------------------------------------------------------------------


@needed
def test_without_nested_namespaces_no_submission_is_read(monkeypatch):
    """An old or restricted system may allow a sandbox, but no namespaces in it."""
    options = (*bubblewrap.SEPARATION, "--unshare-user", "--disable-userns")
    monkeypatch.setattr(bubblewrap, "SEPARATION", options)
    with pytest.raises(SandboxError, match=r"docs/grading.md, section Containers.*: OSError: "):
        Server()


@needed
@pytest.mark.full
@pytest.mark.skipif(os.geteuid() != 0, reason="all other tests run without root")
def test_a_user_other_than_root_can_grade():
    """The tests run as the user nobody, who can't read root's files but needs Python."""
    code = """
        import os, time
        from workshop.grading.sandbox.limits import Limits
        from workshop.grading.sandbox.server import Server
        assert os.geteuid() == 65534
        process = Server().start("student", Limits())
        process.channel.send("run", b"import os; print(os.getuid(), os.listdir('/'))", n=1)
        print(process.channel.receive(time.monotonic() + 60).text)
        """
    command = ["bwrap", "--dev-bind", "/", "/", "--perms", "0755", "--tmpfs", "/root"]
    for folder in (*bubblewrap.python_folders(), str(ROOT)):
        for outer in reversed(Path(folder).parents[:-1]):
            command += ["--perms", "0755", "--dir", str(outer)]
        command += ["--ro-bind", folder, folder]
    command += [*bubblewrap._as_nobody(), sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("1000 ["), done.stderr
    assert "'home'" not in done.stdout
