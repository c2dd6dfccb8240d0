"""The set-up, with stand-ins for pip, the network and the machine. Nothing here leaves it."""

import contextlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from course_utils import bootstrap, cli
from course_utils.bootstrap import STUDENT, SetupError

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A copy of the course without `.venv`, on a machine without environment variables."""
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.delenv("QLORA_CONSTRAINTS", raising=False)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / "course_utils").mkdir()
    shutil.copy(REPOSITORY / "course_utils" / "cli.py", tmp_path / "course_utils")
    return tmp_path


def make_venv():
    """A `.venv` that looks complete: a Python, its version, a place for packages."""
    python = bootstrap.venv_program("python")
    python.parent.mkdir(parents=True, exist_ok=True)
    python.touch()
    bootstrap.in_venv("pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
    bootstrap.in_venv("lib", "python3.11", "site-packages").mkdir(parents=True, exist_ok=True)


@pytest.fixture
def pip(clone, monkeypatch):
    """Stands in for making the environment and for pip; a list of what pip was asked for."""
    asked = []
    monkeypatch.setattr(bootstrap, "ensure_venv", make_venv)
    monkeypatch.setattr(bootstrap, "wants_cpu_torch", lambda: False)
    monkeypatch.setattr(bootstrap, "pip_install", lambda arguments, _: asked.append(arguments))
    give_disk(monkeypatch, 100e9)
    return asked


@pytest.fixture
def programs(monkeypatch):
    """Stands in for the program that takes over; a list of the command lines."""
    ran = []
    monkeypatch.setattr(bootstrap, "hand_over", lambda command: ran.append(command) or 7)
    return ran


def give_disk(monkeypatch, free):
    usage = namedtuple("usage", "total used free")(500_000_000_000, 0, int(free))
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda _: usage)


# --- this machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 14), (3, 14, 0), (4, 0, 0)])
def test_another_python_ends_with_one_line_that_says_what_is_needed(
    clone, monkeypatch, capsys, version
):
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(sys, "executable", "/opt/python")
    before = sorted(clone.rglob("*"))
    assert bootstrap.main(["lab"]) == 1
    said = capsys.readouterr().err
    assert "needs Python 3.11, 3.12 or 3.13, but /opt/python is Python " in said
    assert said.count("\n") == 1 and sorted(clone.rglob("*")) == before


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 5), (3, 13, 9)])
def test_a_supported_python_passes(monkeypatch, capsys, version):
    monkeypatch.setattr(sys, "version_info", version)
    assert not bootstrap.main(["help", "lab"]) and capsys.readouterr().out.startswith("lab ")


def test_a_full_disk_stops_before_anything_is_made(clone, pip, monkeypatch, capsys):
    give_disk(monkeypatch, 1.2e9)
    assert bootstrap.main(["setup"]) == 1
    said = capsys.readouterr().err
    assert "Not enough disk space" in said and "has 1.2 of about " in said
    assert not pip and not bootstrap.in_venv().exists()


@pytest.mark.parametrize(
    ("system", "cpu_torch", "fits"),
    [("Linux", True, True), ("Linux", False, False), ("Windows", False, True)],
)
def test_cuda_on_linux_needs_more_disk(clone, monkeypatch, system, cpu_torch, fits):
    give_disk(monkeypatch, 5e9)
    monkeypatch.setattr(bootstrap.platform, "system", lambda: system)
    with contextlib.nullcontext() if fits else pytest.raises(SetupError, match=r"about 12\.0 GB"):
        bootstrap.check_disk(cpu_torch)


def test_more_extras_need_no_more_room_than_is_there(clone, pip, monkeypatch):
    bootstrap.ensure_installed({"lab"})
    give_disk(monkeypatch, 1e9)
    bootstrap.ensure_installed({"test"})
    assert len(pip) == 2


# --- which PyTorch --------------------------------------------------------------------------------


@contextlib.contextmanager
def server(status=200):
    """A web server on this machine that answers with a status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()


@pytest.fixture
def machine(monkeypatch):
    """Describes a machine: its system, its GPU, and the index of PyTorch that it reaches."""

    def describe(system="Linux", gpu=False, index="http://127.0.0.1:9"):
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(bootstrap, "TORCH_CPU_INDEX", index)
        monkeypatch.setattr(bootstrap.platform, "system", lambda: system)
        monkeypatch.setattr(bootstrap.shutil, "which", lambda name: name if gpu else None)
        monkeypatch.setattr(bootstrap.os.path, "exists", lambda path: False)

    return describe


@pytest.mark.parametrize(
    ("system", "gpu", "status", "cpu_torch"),
    [
        ("Linux", False, 200, True),
        ("Linux", True, 200, False),
        ("Darwin", False, 200, False),
        ("Windows", False, 200, False),
        ("Linux", False, 403, False),
        ("Linux", False, 503, False),
    ],
)
def test_the_cpu_build_is_for_linux_without_a_gpu(machine, system, gpu, status, cpu_torch):
    with server(status) as index:
        machine(system, gpu, index)
        assert bootstrap.wants_cpu_torch() is cpu_torch


def test_without_pytorchs_index_pip_chooses_the_build(machine):
    machine()
    assert bootstrap.wants_cpu_torch() is False


def test_the_cpu_build_comes_first_and_alone_from_pytorchs_index(clone, pip, monkeypatch):
    monkeypatch.setattr(bootstrap, "wants_cpu_torch", lambda: True)
    bootstrap.ensure_installed({"lab"})
    index = ["--index-url", bootstrap.TORCH_CPU_INDEX, "--no-deps"]
    assert pip == [["torch>=2.11", *index], ["--editable", ".[lab]"]]
    assert '    "torch>=2.11",\n' in (clone / "pyproject.toml").read_text(encoding="utf-8")


def test_an_installed_torch_stays(clone, pip, monkeypatch):
    monkeypatch.setattr(bootstrap, "wants_cpu_torch", lambda: True)
    make_venv()
    bootstrap.in_venv("lib/python3.11/site-packages/torch-2.13.0+cpu.dist-info").mkdir()
    bootstrap.ensure_installed({"lab"})
    assert pip == [["--editable", ".[lab]"]]


# --- pip ------------------------------------------------------------------------------------------

RETRY = "WARNING: Retrying (Retry(total={}, connect=None)) after connection broken by 'Error'\n"
NOT_FOUND = "ERROR: No matching distribution found for click\n"


@pytest.fixture
def run_pip(clone, monkeypatch):
    """Runs `pip_install`; in place of pip a program that prints on standard error, and fails."""
    make_venv()

    def run(output, arguments=("a-package",), status=1):
        program = f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:])\n"
        program += f"sys.stderr.write({output!r})\nsys.exit({status})\n"
        (clone / "pip").write_text(program, encoding="utf-8")
        (clone / "pip").chmod(0o755)
        monkeypatch.setattr(bootstrap, "venv_program", lambda name: clone / "pip")
        with open(clone / "lock", "w") as lock_file:
            bootstrap.pip_install(arguments, lock_file)

    return run


@pytest.mark.skipif(os.name == "nt", reason="Windows runs no scripts by their first line")
@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (RETRY.format(1) + RETRY.format(0) + NOT_FOUND, "No network"),
        ("ERROR: Could not install packages due to an OSError: ... Read timed out.", "No network"),
        (RETRY.format(0) + "SSLError(SSLCertVerificationError())", "PIP_CERT"),
        ("ERROR: Could not install: [Errno 28] No space left on device: '/x'", "disk is full"),
        ("OSError: [Errno 122] Disk quota exceeded", "disk is full"),
        (RETRY.format(2) + NOT_FOUND, "pip failed, for the reason that it gives above"),
    ],
)
def test_a_common_failure_of_pip_ends_with_one_sentence(run_pip, capsys, output, sentence):
    with pytest.raises(SetupError, match=sentence) as failure:
        run_pip(output)
    assert "\n" not in str(failure.value)
    assert output.rstrip() in capsys.readouterr().err, "pip's own words come first"
    assert not bootstrap.in_venv("unfinished").exists()


def test_real_pip_without_a_network(clone, monkeypatch):
    pytest.importorskip("pip", reason="uv makes environments without pip")
    bootstrap.in_venv().mkdir()
    monkeypatch.setattr(bootstrap, "venv_program", lambda name: sys.executable)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with server() as url:
        pass  # its port is closed from here on
    target = ["--retries", "1", "--target", str(clone / "out")]
    arguments = ["--index-url", url, *target, "no-such-package-of-the-course"]
    with pytest.raises(SetupError, match="^No network"), open(clone / "lock", "w") as lock_file:
        bootstrap.pip_install(arguments, lock_file)


@pytest.mark.skipif(os.name == "nt", reason="Windows runs no scripts by their first line")
def test_pip_is_held_to_the_constraints(run_pip, clone, monkeypatch, capfd):
    run_pip("", status=0)
    assert "--constraint" not in capfd.readouterr().out
    monkeypatch.setenv("QLORA_CONSTRAINTS", "pins.txt")
    run_pip("", status=0)
    assert capfd.readouterr().out == f"-m pip install a-package --constraint={clone / 'pins.txt'}\n"


def test_what_leads_pip_astray_is_kept_from_it(monkeypatch):
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    environment = bootstrap.child_environment()
    assert "PIP_USER" not in environment and "PYTHONPATH" not in environment
    assert environment["HTTPS_PROXY"] == "http://proxy:3128"


# --- .venv ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["missing", "empty", "no Python", "no pip"])
def test_what_is_no_environment_is_made_anew(clone, monkeypatch, state):
    made = []
    monkeypatch.setattr(bootstrap.venv, "create", lambda *args, **options: made.append(options))
    if state == "empty":
        bootstrap.in_venv().mkdir()
    elif state == "no Python":
        make_venv()
    elif state == "no pip":
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=clone)
    bootstrap.ensure_venv()
    assert len(made) == 1 and made[0]["clear"] and made[0]["with_pip"]


def test_an_environment_is_made_once_and_again_after_an_interruption(clone):
    """A real one. Ctrl-C can leave a package behind that is half there and counts as installed."""
    bootstrap.ensure_venv()
    bootstrap.in_venv("mine").touch()
    bootstrap.ensure_venv()
    assert bootstrap.in_venv("mine").exists(), "an environment that works is left alone"
    bootstrap.in_venv("unfinished").touch()
    bootstrap.ensure_venv()
    assert not bootstrap.in_venv("mine").exists()
    assert bootstrap.venv_program("python").exists()


def test_a_python_without_venv_names_debians_package(clone, monkeypatch):
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"apt install python3\.\d+-venv"):
        bootstrap.ensure_venv()


# --- once, and only once --------------------------------------------------------------------------


def test_the_second_set_up_does_nothing(clone, pip):
    for extras in ({"lab"}, {"lab"}, set()):
        bootstrap.ensure_installed(extras)
    assert pip == [["--editable", ".[lab]"]]


def test_extras_are_added_and_never_lost(clone, pip):
    for extras in ({"lab"}, {"test"}, {"lab", "test"}):
        bootstrap.ensure_installed(extras)
    assert pip == [["--editable", ".[lab]"], ["--editable", ".[lab,test]"]]


@pytest.mark.parametrize("change", ["pyproject", "constraints", "version", "gone", "note", "moved"])
def test_a_change_sets_up_again(clone, pip, monkeypatch, change, tmp_path_factory):
    bootstrap.ensure_installed({"lab"})
    if change == "pyproject":
        (clone / "pyproject.toml").write_text("[project]\n")
    elif change == "constraints":
        (clone / "pins.txt").write_text("torch==2.13.0\n")
        monkeypatch.setenv("QLORA_CONSTRAINTS", "pins.txt")
    elif change == "version":
        bootstrap.in_venv("pyvenv.cfg").write_text("version = 3.12.1\n")
    elif change == "gone":
        bootstrap.venv_program("python").unlink()
    elif change == "note":
        bootstrap.in_venv("setup.json").write_text('{"key": ')
    else:
        new = tmp_path_factory.mktemp("elsewhere") / "clone"
        clone.rename(new)
        monkeypatch.setattr(bootstrap, "ROOT", new)
    bootstrap.ensure_installed({"lab"})
    assert len(pip) == 2


def test_an_interrupted_set_up_goes_on(clone, pip, programs, monkeypatch, capsys):
    complete = bootstrap.pip_install

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap, "pip_install", interrupted)
    assert bootstrap.main(["lint"]) == 130
    assert "starts the set-up again" in capsys.readouterr().err
    monkeypatch.setattr(bootstrap, "pip_install", complete)
    assert bootstrap.main(["lint"]) == 7
    assert pip == [["--editable", ".[instructor,lab,test]"]]


@pytest.mark.skipif(os.name == "nt", reason="Windows goes without the lock")
def test_two_set_ups_at_once_install_once(clone, pip, monkeypatch):
    inside, go_on = threading.Event(), threading.Event()

    def slow(arguments, _):
        pip.append(arguments)
        inside.set()
        assert go_on.wait(60)

    monkeypatch.setattr(bootstrap, "pip_install", slow)
    both = [threading.Thread(target=bootstrap.ensure_installed, args=({"lab"},)) for _ in range(2)]
    both[0].start()
    assert inside.wait(60)
    both[1].start()
    time.sleep(0.2)  # long enough to install, were it not for the lock
    assert both[1].is_alive()
    go_on.set()
    for thread in both:
        thread.join(60)
    assert pip == [["--editable", ".[lab]"]]


# --- commands -------------------------------------------------------------------------------------


def test_the_registry_is_the_command_lines_own():
    """What is parsed before Click is there is what Click knows afterwards."""
    known = {
        name: ({*STUDENT, *command.extras.split()}, (command.help or "").split("\n")[0])
        for name, command in cli.main.commands.items()
    }
    assert bootstrap.registry() == known and len(known) > 15


def test_a_command_gets_its_extras_and_its_arguments(clone, pip, programs):
    assert bootstrap.main(["site", "--no-run"]) == 7, "the status of what took over"
    assert pip == [["--editable", ".[instructor,lab,site]"]]
    assert programs == [[str(bootstrap.venv_program("course")), "--fetch", "site", "--no-run"]]


def test_help_lists_every_command_and_needs_nothing(clone, capsys):
    assert not bootstrap.main([]) and not bootstrap.main(["help"]) and not bootstrap.main(["-h"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == 3 * list(cli.main.commands)
    assert not bootstrap.in_venv().exists()


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_an_environment_of_another_python_is_kept_and_named(clone):
    python = bootstrap.venv_program("python")
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    python.chmod(0o755)
    with pytest.raises(bootstrap.SetupError, match="too old or too new: delete the folder .venv"):
        bootstrap.ensure_venv()
    assert python.read_text(encoding="utf-8").endswith("exit 3\n")


def test_a_missing_file_of_constraints_is_not_taken_for_none(clone, monkeypatch):
    monkeypatch.delenv("QLORA_CONSTRAINTS", raising=False)
    without = bootstrap.setup_key()
    monkeypatch.setenv("QLORA_CONSTRAINTS", "typo.txt")
    assert bootstrap.setup_key() != without


def test_an_unknown_command_is_named_before_anything_is_installed(clone, capsys):
    assert bootstrap.main(["lap"]) == 1
    assert "There is no command 'lap'" in capsys.readouterr().err
    assert not bootstrap.in_venv().exists()


def test_clean_removes_what_runs_leave_behind_and_needs_nothing(clone):
    kept, gone = clone / ".venv/lib/__pycache__", clone / "course_utils/a/__pycache__"
    for folder in (kept, gone, clone / "build", clone / ".ruff_cache"):
        folder.mkdir(parents=True)
    assert not bootstrap.main(["clean"])
    assert sorted(path.name for path in clone.iterdir()) == [
        ".venv",
        "course_utils",
        "pyproject.toml",
    ]
    assert kept.exists() and not gone.exists()


def test_a_folder_that_cannot_be_written_to_is_named(clone, pip, monkeypatch, capsys):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(clone / ".venv.lock"))

    monkeypatch.setattr(bootstrap, "lock", refuse)
    assert bootstrap.main(["setup"]) == 1
    assert ".venv.lock" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows can't replace a process")
def test_a_program_takes_over_this_process():
    """So its status is ours, and whoever ends us ends it."""
    print_pid = [sys.executable, "-c", "import os; print(os.getpid()); os._exit(7)"]
    code = f"from course_utils import bootstrap; bootstrap.hand_over({print_pid!r})"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.communicate()[0].strip() == str(child.pid)
    assert child.returncode == 7


def test_the_note_keeps_what_others_wrote(clone, pip):
    bootstrap.ensure_installed({"lab"})
    bootstrap.write_stamp(model={"folder": "/m"})
    bootstrap.ensure_installed({"test"})
    note = json.loads(bootstrap.in_venv("setup.json").read_text())
    assert note["model"] == {"folder": "/m"} and note["extras"] == ["lab", "test"]
