"""The sandbox: what a student process can see and do, and that nothing is left of the process."""

import ast
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

import course_utils
from tests.sandboxes import QUICK, needed, printed, servers, session, text_of
from tests.waiting import wait_until
from workshop.grading import assignments
from workshop.grading.sandbox import bubblewrap
from workshop.grading.sandbox.limits import Limits
from workshop.grading.sandbox.package import copy_package
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
def test_environment_variables_of_the_grader_are_missing(monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "canary-value")
    with Server() as server:
        process = server.start("student", QUICK)
        process.channel.send("run", b"import os; print(dict(os.environ))", n=1)
        variables = process.channel.receive(time.monotonic() + 60).text
        process.end()
    assert "'HOME': '/tmp'" in variables and "canary" not in variables
    assert set(ast.literal_eval(variables)) <= {
        *bubblewrap.environment(),
        "PWD",
        "LC_CTYPE",
        "SHLVL",
        "_",
    }


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
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_if_root_grades_the_process_does_not_belong_to_root():
    process = servers().student.start("student", QUICK)
    users = psutil.Process(process.pid).uids()
    process.end()
    assert set(users) == {65534}


@needed
@pytest.mark.parametrize(
    "code",
    [
        "libc.unshare(0x10000000)",
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, 0)",
        "libc.setns(os.open('/proc/self/ns/net', 0), 0)",
        "libc.ptrace(16, 1, 0, 0)",
        "libc.chroot(b'/tmp')",
    ],
)
def test_system_calls_of_administrators_are_refused(code):
    head = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    assert printed(f"{head}print({code}, ctypes.get_errno())") == "-1 1\n"


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


# --- withheld modules -----------------------------------------------------------------------------


@needed
@pytest.mark.parametrize(
    "route",
    [
        "import course_utils.lora; course_utils.lora.LoRALinear(1)",
        "from course_utils.lora import LoRALinear; LoRALinear(1)",
        "import importlib; importlib.import_module('course_utils.lora').add_lora()",
    ],
)
def test_a_withheld_module_raises_an_error_that_says_why(route):
    reason = "not available while this assignment is graded, because it contains solutions"
    assert reason in printed(route)


@needed
@pytest.mark.full
def test_the_sandbox_contains_no_copy_of_a_withheld_module():
    code = """
        import pathlib, sys
        copies = []
        for top in ("/course", "/tmp", sys.prefix, sys.base_prefix, "/etc"):
            for path in pathlib.Path(top).rglob("*"):
                if path.suffix in (".py", ".pyc") and "lora" in path.name.lower():
                    if b"class LoRALinear" in path.read_bytes() and "peft" not in path.parts:
                        copies.append(str(path))
        print(copies, [name for name in sys.modules if "course_utils.lora" in name])
        """
    assert printed(textwrap.dedent(code), Limits(cell=60)) == "[] []\n"


def test_the_sandbox_imports_no_module_that_an_assignment_withholds():
    code = "import sys, workshop.grading.sandbox.forkserver, course_utils.exercise.checks\n"
    code += "import workshop.grading.sandbox.shell\n"
    code += "print(*(name for name in sys.modules if name.startswith('course_utils')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for path in assignments.sources(ROOT):
        assert set(assignments.read(path).withheld).isdisjoint(done.stdout.split()), path


def test_the_copy_of_the_package_differs_only_in_the_withheld_modules(tmp_path):
    copy_package(tmp_path, ("course_utils.lora", "course_utils.memory"))
    package = tmp_path / "course_utils"
    source = Path(course_utils.__file__).parent
    copied = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    originals = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert copied == {path for path in originals if "__pycache__" not in path.parts}
    for path in copied:
        copy, text = (package / path).read_bytes(), (source / path).read_bytes()
        stub = path == Path("lora.py") or path.parts[0] == "memory"
        assert (len(copy) < 900 and b"raise ImportError" in copy) if stub else copy == text, path


@needed
def test_the_test_process_has_the_withheld_modules():
    source = "from importlib.util import find_spec\n"
    source += "print('class LoRALinear' in open(find_spec('course_utils.lora').origin).read())"
    with session() as running:
        assert text_of(running.check(source)) == "True\n"
        assert text_of(running.run(source)) == "False\n"


# --- limits ---------------------------------------------------------------------------------------


@needed
@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_the_size_of_files_is_limited(folder):
    code = (
        f"with open('{folder}/big', 'wb') as f:\n    for _ in range(100): f.write(bytes(1_000_000))"
    )
    assert "No space left" in printed(code)


@needed
def test_the_number_of_processes_is_limited():
    code = """
        import os, time
        started = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60); os._exit(0)
                started += 1
        except OSError as error:
            print(started, error)
        """
    text = printed(textwrap.dedent(code))
    assert 5 < int(text.split()[0]) < QUICK.processes and "Resource temporarily" in text


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
    mark = f"canary-{os.getpid()}"
    code = f"""
        import subprocess, sys
        for _ in range(3):
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", "{mark}"],
                             start_new_session=True)
        """
    with session() as running:
        running.run(textwrap.dedent(code))
        assert _count(mark) == 3
    assert _all_end(mark)


def _count(mark):
    """Return the number of running processes with this argument."""
    done = subprocess.run(["pgrep", "-fc", f"sleep.300. {mark}"], capture_output=True, text=True)
    return int(done.stdout or 0)


def _all_end(mark):
    """Wait at most 60 s until no process with this argument runs, and return whether none does."""
    return wait_until(lambda: _count(mark) == 0)


@needed
@pytest.mark.full
def test_all_processes_end_if_the_worker_is_killed(tmp_path):
    mark = f"canary-worker-{os.getpid()}"
    sleeper = f"[sys.executable, '-c', 'import time; time.sleep(300)', '{mark}']"
    child = f"import subprocess, sys\\nsubprocess.Popen({sleeper})"
    code = f"""
        from workshop.grading.sandbox.limits import Limits
        from workshop.grading.sandbox.server import Server
        process = Server().start("student", Limits())
        process.channel.send("run", b"{child}", n=1)
        process.channel.receive()
        print("ready", flush=True)
        input()
        """
    worker = _start_worker(code, tmp_path)
    assert _count(mark) == 1
    worker.kill()
    worker.communicate()
    assert _all_end(mark)


def _start_worker(code, folder):
    """Start a process that runs the code, and wait until the process has printed "ready".

    A worker that is killed can't delete its copy of the package, so the copy is made in `folder`.
    """
    command, pipe = [sys.executable, "-c", textwrap.dedent(code)], subprocess.PIPE
    environment = os.environ | {"TMPDIR": str(folder)}
    worker = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment
    )
    assert worker.stdout.readline() == "ready\n"
    return worker


# --- other machines -------------------------------------------------------------------------------


@needed
@pytest.mark.full
def test_without_nested_namespaces_each_process_gets_a_separate_sandbox():
    with Server(withheld=("course_utils.lora",), warm=False) as server:
        for _ in range(2):
            process = server.start("student", QUICK)
            process.channel.send("run", b"import os; print(os.listdir('/tmp'), os.getuid())", n=1)
            text = process.channel.receive(time.monotonic() + 60).text
            assert text.endswith(" 1000\n") and "mine" not in text
            process.channel.send("run", b"open('/tmp/mine', 'w')", n=2)
            process.channel.send("run", b"print('started', flush=True)\nwhile True: pass", n=3)
            while process.channel.receive(time.monotonic() + 60).text != "started\n":
                pass
            process.interrupt()
            while (answer := process.channel.receive(time.monotonic() + 60)).kind != "done":
                pass
            assert (answer["n"], answer["ok"]) == (3, False)
            process.end()


@needed
@pytest.mark.full
@pytest.mark.skipif(os.geteuid() != 0, reason="all other tests run without root")
def test_a_user_other_than_root_can_grade():
    """Root has another number in a user namespace, and can't mount /proc a second time there."""
    code = """
        import os, time
        from workshop.grading.sandbox.limits import Limits
        from workshop.grading.sandbox.server import Server
        assert os.geteuid() == 1000
        process = Server().start("student", Limits())
        process.channel.send("run", b"import os; print(os.getuid(), os.listdir('/'))", n=1)
        print(process.channel.receive(time.monotonic() + 60).text)
        """
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", sys.executable, "-c"]
    done = subprocess.run(
        [*command, textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.startswith("1000 ["), done.stderr
    assert "'home'" not in done.stdout
