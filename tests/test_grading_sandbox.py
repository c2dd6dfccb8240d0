"""The sandbox: what a student's process sees and may do, and that nothing of it is left."""

import ast
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
import venv
from pathlib import Path

import psutil
import pytest

import course_utils
from course_utils.grading import assignments, sandbox
from course_utils.grading.sandbox import bubblewrap
from course_utils.grading.sandbox.bubblewrap import SandboxError
from course_utils.grading.sandbox.limits import Limits
from course_utils.grading.sandbox.package import copied_package
from course_utils.grading.sandbox.server import Server
from tests.sandboxes import QUICK, needed, printed, referee, said, servers

ROOT = Path(__file__).resolve().parents[1]

# --- what is there --------------------------------------------------------------------------------


@needed
def test_the_server_is_warm_on_this_machine():
    assert servers()[0].warm and servers()[0].fork_error == ""


@needed
def test_no_file_of_this_machine_is_there():
    listed = printed("import os\nfor f in os.walk('/'): pass\nprint(os.listdir('/'))")
    for name in ("home", "var", "srv", "mnt", "media", "opt", "boot"):
        assert f"'{name}'" not in listed
    wanted = ["/etc/passwd", "/etc/shadow", str(ROOT / "solutions"), str(ROOT / "gradebook.db")]
    wanted += [os.path.expanduser("~/.ssh"), os.path.expanduser("~/.jupyter")]
    assert printed(f"import os\nprint([os.path.exists(p) for p in {wanted}])") == f"{[False] * 6}\n"


@needed
def test_no_variable_of_this_process_is_there(monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "canary-value")
    with Server() as server:
        process = server.start("student", QUICK)
        process.channel.send("run", b"import os; print(dict(os.environ))", n=1)
        shown = process.channel.receive(time.monotonic() + 20).text
        process.end()
    assert "'HOME': '/tmp'" in shown and "canary" not in shown
    assert set(eval(shown)) <= {*bubblewrap.environment(), "PWD", "LC_CTYPE", "SHLVL", "_"}


@needed
def test_a_python_in_tmp_works_as_well(tmp_path):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        venv.create(f"{folder}/.venv", symlinks=True)
        code = """
            import pathlib, subprocess, sys
            from course_utils.grading.sandbox import bubblewrap
            from course_utils.grading.sandbox.package import copied_package
            package = copied_package(pathlib.Path(sys.argv[1]))
            program = [bubblewrap.python(), "-c", "import sys; print(sys.prefix, sys.path[1:])"]
            subprocess.run([*bubblewrap.command(package), *program], check=True)
            """
        command = [f"{folder}/.venv/bin/python", "-c", textwrap.dedent(code), str(tmp_path)]
        paths = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
        environment = os.environ | {"PYTHONPATH": paths}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("/python ['/course', ") and "'/python/lib/" in done.stdout


@needed
def test_a_virtual_environment_of_a_python_in_tmp_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "base_prefix", "/tmp/elsewhere")
    with pytest.raises(SandboxError, match="Python is in /tmp/elsewhere, .* outside /tmp"):
        bubblewrap.command(tmp_path)


@needed
def test_the_system_and_its_packages_can_t_be_changed():
    for path in ("/", "/usr", "/dev", "/course", "/etc", "/proc/sys/kernel", sys.prefix):
        assert "Error" in printed(f"open('{path}/canary', 'w')"), path
    assert "Read-only" in printed("import os; os.remove('/course/course_utils/checks.py')")


@needed
def test_it_is_nobody_without_capabilities():
    found = printed(
        "import os\nprint(os.getuid(), os.getgid(), os.getpid())\n"
        "print([l.split()[1] for l in open('/proc/self/status') if l[:3] in ('Cap', 'NoN')])"
    )
    nothing = "0" * 16
    assert found == f"1000 1000 1\n{[nothing] * 5 + ['1']}\n"


@needed
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_if_root_grades_the_sandbox_isn_t_root_outside_either():
    process = servers()[0].start("student", QUICK)
    pid = _outside(process)
    uid = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "Uid" in line
    )
    process.end()
    assert uid.split()[1:] == ["65534"] * 4


def _outside(process):
    """The number that this machine knows a process in the sandbox by."""
    process.channel.send("run", b"import time; time.sleep(987.6)", n=1)
    time.sleep(0.3)
    found = subprocess.run(
        ["pgrep", "-f", "grading.sandbox.inside"], capture_output=True, text=True
    )
    return int(found.stdout.split()[-1])


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
def test_what_only_an_administrator_may_do_is_refused(code):
    head = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    assert printed(f"{head}print({code}, ctypes.get_errno())") == "-1 1\n"


@needed
def test_there_is_no_network():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)"
        assert "Error" in printed(code)
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert "gaierror" in printed("import socket\nsocket.getaddrinfo('example.org', 80)")
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0course-canary")
        abstract.listen()
        code = "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0course-canary')"
        assert "refused" in printed(code)


@needed
def test_only_its_own_descriptors_are_open():
    code = "import os\nprint(sorted(int(d) for d in os.listdir('/proc/self/fd'))[:-1])"
    assert printed(code) == "[0, 1, 2, 3]\n"


@needed
def test_two_submissions_don_t_meet():
    with referee() as one, referee() as other:
        one.run("open('/tmp/mine', 'w').write('x'); open('/dev/shm/mine', 'w').write('x')")
        one.run("import socket\ns = socket.create_server(('127.0.0.1', 9999))")
        assert said(other.run("import os\nprint(os.listdir('/tmp'), os.listdir('/dev/shm'))")) == (
            "['work'] []\n"
        )
        connect = "import socket\nsocket.create_connection(('127.0.0.1', 9999), 1)"
        assert "Error" in said(other.run(connect)) and "Error" not in said(one.run(connect))
        assert (
            said(other.run("print([p for p in os.listdir('/proc') if p.isdigit()])")) == "['1']\n"
        )


# --- answers that are withheld --------------------------------------------------------------------


@needed
@pytest.mark.parametrize(
    "route",
    [
        "import course_utils.lora",
        "from course_utils.lora import LoRALinear",
        "import importlib; importlib.import_module('course_utils.lora')",
        "import runpy; runpy.run_path('/course/course_utils/lora.py')",
    ],
)
def test_a_withheld_module_can_t_be_imported_and_says_why(route):
    assert (
        "not available while this assignment is graded, because it contains solutions"
        in printed(route)
    )


@needed
def test_no_copy_of_a_withheld_module_is_left():
    code = """
        import pathlib, sys
        found = []
        for top in ("/course", "/tmp", sys.prefix, sys.base_prefix, "/etc"):
            for path in pathlib.Path(top).rglob("*"):
                if path.suffix in (".py", ".pyc") and "lora" in path.name.lower():
                    if b"class LoRALinear" in path.read_bytes() and "peft" not in path.parts:
                        found.append(str(path))
        print(found, [name for name in sys.modules if "course_utils.lora" in name])
        """
    assert printed(textwrap.dedent(code), Limits(cell=60)) == "[] []\n"


def test_what_runs_in_the_sandbox_needs_nothing_that_an_assignment_withholds():
    code = "import sys, course_utils.grading.sandbox.inside, course_utils.checks\n"
    code += "import course_utils.grading.sandbox.shell\n"
    code += "print(*(name for name in sys.modules if name.startswith('course_utils')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for path in assignments.sources(ROOT):
        assert set(assignments.read(path).withheld).isdisjoint(done.stdout.split()), path


def test_the_sandbox_imports_little_of_the_course():
    """An assignment may withhold any other module."""
    allowed = {"cgroups", "checks", "units", "validation", "values", "grading.sandbox"}
    folder = Path(sandbox.__file__).parent
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for name in (f"{start}{alias.name}" for alias in node.names):
                inner = name.removeprefix("course_utils.")
                fine = inner == name or any(f"{inner}.".startswith(f"{each}.") for each in allowed)
                assert fine, f"{path.relative_to(folder)} imports {name}"


def test_the_copy_of_the_package_is_the_package_but_for_what_is_withheld(tmp_path):
    package = copied_package(tmp_path, ("course_utils.lora", "course_utils.memory"))
    source = Path(course_utils.__file__).parent
    kept = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    ours = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert kept == {path for path in ours if "__pycache__" not in path.parts}
    for path in kept:
        copy, text = (package / path).read_bytes(), (source / path).read_bytes()
        stub = path == Path("lora.py") or path.parts[0] == "memory"
        assert (len(copy) < 200 and b"raise ImportError" in copy) if stub else copy == text, path


@needed
def test_the_judge_has_what_is_withheld():
    with referee() as judge:
        assert judge.check("from course_utils.lora import LoRALinear") == []


# --- bounds ---------------------------------------------------------------------------------------


@needed
@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_files_are_bounded(folder):
    code = (
        f"with open('{folder}/big', 'wb') as f:\n    for _ in range(100): f.write(bytes(1_000_000))"
    )
    assert "No space left" in printed(code)


@needed
def test_the_number_of_files_is_bounded():
    code = "import os\nfor i in range(100_000): open(f'/tmp/{i}', 'w').close()"
    assert "No space left" in printed(code, Limits(cell=60))


@needed
def test_processes_are_bounded_and_the_machine_isn_t_touched():
    code = """
        import os, time
        started = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60); os._exit(0)
                started += 1
        except OSError as fault:
            print(started, fault)
        """
    found = printed(textwrap.dedent(code))
    assert 5 < int(found.split()[0]) < QUICK.processes and "Resource temporarily" in found


@needed
@pytest.mark.parametrize("number", ["SIGKILL", "SIGSTOP"])
def test_a_signal_to_its_process_group_doesn_t_leave_its_namespace(number):
    """It has the server's group when it is forked, and groups go across PID namespaces."""
    with referee() as one, referee() as other:
        other.run("x = 5")
        one.run(f"import os, signal\nos.kill(0, signal.{number})\nos.killpg(0, signal.{number})")
        assert said(other.run("print(x)")) == "5\n"
    assert printed("print(1)") == "1\n"


@needed
def test_nothing_is_left_of_a_process():
    mark = f"canary-{os.getpid()}"
    code = f"""
        import subprocess, sys
        for _ in range(3):
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", "{mark}"],
                             start_new_session=True)
        """
    with referee() as judge:
        judge.run(textwrap.dedent(code))
        assert _count(mark) == 3
    assert _gone(mark)


def _count(mark):
    found = subprocess.run(["pgrep", "-fc", f"sleep.300. {mark}"], capture_output=True, text=True)
    return int(found.stdout or 0)


def _gone(mark, seconds=5):
    ends = time.monotonic() + seconds
    while _count(mark) and time.monotonic() < ends:
        time.sleep(0.05)
    return _count(mark) == 0


@needed
def test_nothing_is_left_if_the_worker_is_killed():
    mark = f"canary-worker-{os.getpid()}"
    sleeper = f"[sys.executable, '-c', 'import time; time.sleep(300)', '{mark}']"
    child = f"import subprocess, sys\\nsubprocess.Popen({sleeper})"
    code = f"""
        from course_utils.grading.sandbox.limits import Limits
        from course_utils.grading.sandbox.server import Server
        process = Server().start("student", Limits())
        process.channel.send("run", b"{child}", n=1)
        process.channel.receive()
        print("ready", flush=True)
        input()
        """
    worker = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert worker.stdout.readline() == "ready\n" and _count(mark) == 1
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert _gone(mark)


@needed
def test_nothing_is_left_of_a_server_that_was_stopped_if_the_worker_is_killed():
    code = """
        from course_utils.grading.sandbox.server import Server
        server = Server()
        print("ready", flush=True)
        input()
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    pipe = subprocess.PIPE
    worker = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
    assert worker.stdout.readline() == "ready\n"
    members = psutil.Process(worker.pid).children(recursive=True)
    members[-1].suspend()
    worker.kill()
    worker.communicate()
    assert len(members) >= 3 and psutil.wait_procs(members, timeout=5)[1] == []


# --- other machines -------------------------------------------------------------------------------


@needed
def test_without_namespaces_of_its_own_each_process_gets_its_own_sandbox():
    with Server(withheld=("course_utils.lora",), warm=False) as server:
        for _ in range(2):
            process = server.start("student", QUICK)
            process.channel.send("run", b"import os; print(os.listdir('/tmp'), os.getuid())", n=1)
            shown = process.channel.receive(time.monotonic() + 20).text
            assert shown.endswith(" 1000\n") and "mine" not in shown
            process.channel.send("run", b"open('/tmp/mine', 'w')", n=2)
            process.channel.send("run", b"while True: pass", n=3)
            time.sleep(0.5)
            process.interrupt()
            while (answer := process.channel.receive(time.monotonic() + 20)).fields.get("n") != 3:
                pass
            assert answer["ok"] is False
            process.end()


@needed
@pytest.mark.skipif(os.geteuid() != 0, reason="is what the other tests run as")
def test_somebody_who_isn_t_root_can_grade():
    """Here in a namespace in which root has another number; it may not mount /proc again there."""
    code = """
        import os, time
        from course_utils.grading.sandbox.limits import Limits
        from course_utils.grading.sandbox.server import Server
        assert os.geteuid() == 1000
        process = Server().start("student", Limits())
        process.channel.send("run", b"import os; print(os.getuid(), os.listdir('/'))", n=1)
        print(process.channel.receive(time.monotonic() + 30).text)
        """
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", sys.executable, "-c"]
    done = subprocess.run(
        [*command, textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.startswith("1000 ["), done.stderr
    assert "'home'" not in done.stdout


def test_without_bubblewrap_there_is_one_sentence_and_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match="no bubblewrap: install bubblewrap .*apt install"):
        Server()


def test_a_sandbox_that_doesn_t_work_says_what_bubblewrap_said(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxError, match="doesn't work here: bwrap: No permissions to create"):
        Server()
