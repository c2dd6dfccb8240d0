"""bootstrap: the set-up, with replacements for pip, the network and the machine."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from course_utils import bootstrap
from course_utils.bootstrap import STUDENT, SetupError
from workshop import cli

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A copy of the files that the set-up reads, without `.venv`; returns its folder."""
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setenv("QLORA_CONSTRAINTS", "")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / "course_utils").mkdir()
    (tmp_path / "workshop").mkdir()
    shutil.copy(REPOSITORY / "workshop" / "cli.py", tmp_path / "workshop")
    return tmp_path


def make_venv(status=None):
    """Make a folder `.venv` that looks like an environment.

    Its Python is a script that ends with `status`, or a file that can't run if `status` is None.
    """
    python = bootstrap.venv_program("python")
    python.parent.mkdir(parents=True, exist_ok=True)
    python.touch()
    if status is not None:
        python.write_text(f"#!/bin/sh\nexit {status}\n", encoding="utf-8")
        python.chmod(0o755)
    bootstrap.in_venv("pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
    bootstrap.in_venv("lib", "python3.11", "site-packages").mkdir(parents=True, exist_ok=True)


@pytest.fixture
def pip(clone, monkeypatch):
    """Replace pip and the creation of `.venv`; returns a list of pip's arguments in each call."""
    calls = []
    monkeypatch.setattr(bootstrap, "ensure_venv", make_venv)
    monkeypatch.setattr(bootstrap, "wants_cpu_torch", lambda: False)
    monkeypatch.setattr(bootstrap, "pip_install", lambda arguments, _: calls.append(arguments))
    set_free_disk(monkeypatch, 100e9)
    return calls


@pytest.fixture
def programs(monkeypatch):
    """Replace `replace_process`; returns a list of its command lines."""
    commands = []
    monkeypatch.setattr(bootstrap, "replace_process", lambda command: commands.append(command) or 7)
    return commands


def set_free_disk(monkeypatch, free):
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


# --- this machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 14), (3, 14, 0), (4, 0, 0)])
def test_unsupported_python_is_reported_in_one_line(clone, monkeypatch, capsys, version):
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(sys, "executable", "/opt/python")
    before = sorted(clone.rglob("*"))
    assert bootstrap.main(["lab"]) == 1
    error = capsys.readouterr().err
    assert "needs Python 3.11, 3.12 or 3.13, but /opt/python is Python " in error
    assert error.count("\n") == 1 and sorted(clone.rglob("*")) == before


def test_full_disk_is_reported_before_anything_is_created(clone, pip, monkeypatch, capsys):
    set_free_disk(monkeypatch, 1.2e9)
    assert bootstrap.main(["setup"]) == 1
    error = capsys.readouterr().err
    assert "has 1.2 GB of disk space free, but the course needs about 4.0 GB" in error
    assert not pip and not bootstrap.in_venv().exists()


# --- which PyTorch --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "gpu", "status", "cpu_torch"),
    [
        ("Linux", False, 0, True),
        ("Linux", True, 0, False),
        ("Darwin", False, 0, False),
        ("Linux", False, 1, False),
    ],
)
def test_cpu_build_is_chosen_on_linux_without_a_gpu_if_the_index_responds(
    monkeypatch, system, gpu, status, cpu_torch
):
    monkeypatch.setattr(bootstrap.platform, "system", lambda: system)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: name if gpu else None)
    monkeypatch.setattr(bootstrap.os.path, "exists", lambda path: False)
    monkeypatch.setattr(bootstrap.subprocess, "call", lambda *_, **__: status)
    assert bootstrap.wants_cpu_torch() is cpu_torch


def test_cpu_build_of_torch_is_installed_first_without_its_dependencies(clone, pip, monkeypatch):
    monkeypatch.setattr(bootstrap, "wants_cpu_torch", lambda: True)
    bootstrap.ensure_installed({"lab"})
    index = ["--index-url", bootstrap.TORCH_CPU_INDEX, "--no-deps"]
    assert pip == [["torch>=2.11", *index], ["--editable", ".[lab]"]]
    assert '    "torch>=2.11",\n' in (clone / "pyproject.toml").read_text(encoding="utf-8")
    bootstrap.in_venv("lib/python3.11/site-packages/torch-2.13.0+cpu.dist-info").mkdir()
    bootstrap.ensure_installed({"test"})
    assert pip[2:] == [["--editable", ".[lab,test]"]], "PyTorch is not installed again"


# --- pip ------------------------------------------------------------------------------------------

RETRY = "WARNING: Retrying (Retry(total={}, connect=None)) after connection broken by 'Error'\n"
NOT_FOUND = "ERROR: No matching distribution found for click\n"


@pytest.fixture
def run_pip(clone, monkeypatch):
    """Return a function that runs `pip_install` with a script as pip, which prints to stderr."""
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
        (RETRY.format(2) + NOT_FOUND, "pip failed. Its messages above give the reason"),
    ],
)
def test_common_pip_errors_are_explained_in_one_sentence(run_pip, capsys, output, sentence):
    with pytest.raises(SetupError, match=re.escape(sentence)) as failure:
        run_pip(output)
    assert "\n" not in str(failure.value)
    assert output.rstrip() in capsys.readouterr().err
    assert not bootstrap.in_venv("unfinished").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows runs no scripts by their first line")
def test_pip_gets_the_constraints(run_pip, clone, monkeypatch, capfd):
    run_pip("", status=0)
    assert "--constraint" not in capfd.readouterr().out
    monkeypatch.setenv("QLORA_CONSTRAINTS", "pins.txt")
    run_pip("", status=0)
    assert capfd.readouterr().out == f"-m pip install a-package --constraint={clone / 'pins.txt'}\n"


def test_child_processes_do_not_get_variables_that_redirect_pip(monkeypatch):
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    environment = bootstrap.child_environment()
    assert "PIP_USER" not in environment and "PYTHONPATH" not in environment
    assert environment["HTTPS_PROXY"] == "http://proxy:3128"


# --- .venv ----------------------------------------------------------------------------------------


@pytest.fixture
def created(clone, monkeypatch):
    """Replace the creation of environments; returns a list of the options of each call."""
    calls = []
    monkeypatch.setattr(bootstrap.venv, "create", lambda folder, **options: calls.append(options))
    return calls


NEW = {"clear": True, "with_pip": True, "symlinks": os.name != "nt"}
POSIX = pytest.mark.skipif(os.name == "nt", reason="the Python of `.venv` is a shell script here")


@pytest.mark.parametrize(
    ("state", "is_replaced"),
    [
        ("missing", True),
        ("empty", True),
        ("no Python", True),
        pytest.param("no pip", True, marks=POSIX),
        # Ctrl-C can leave an incomplete package that pip regards as installed.
        pytest.param("unfinished", True, marks=POSIX),
        pytest.param("works", False, marks=POSIX),
    ],
)
def test_environment_that_does_not_work_is_replaced(created, state, is_replaced):
    if state == "empty":
        bootstrap.in_venv().mkdir()
    elif state != "missing":
        make_venv(status={"no Python": None, "no pip": 1}.get(state, 0))
    if state == "unfinished":
        bootstrap.in_venv("unfinished").touch()
    bootstrap.ensure_venv()
    assert created == [NEW] * is_replaced


@POSIX
def test_environment_of_an_unsupported_python_is_reported_and_kept(created):
    make_venv(status=3)
    with pytest.raises(SetupError, match=r"too old or too new: delete the folder \.venv"):
        bootstrap.ensure_venv()
    assert created == []


def test_python_without_ensurepip_names_debians_package(clone, monkeypatch):
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"apt install python3\.\d+-venv"):
        bootstrap.ensure_venv()


# --- installing once ------------------------------------------------------------------------------


def test_set_up_installs_only_extras_that_are_missing(clone, pip):
    for extras in ({"lab"}, {"lab"}, set(), {"test"}, {"lab", "test"}):
        bootstrap.ensure_installed(extras)
    assert pip == [["--editable", ".[lab]"], ["--editable", ".[lab,test]"]]


CHANGES = {
    "pyproject": lambda clone: (clone / "pyproject.toml").write_text("[project]\n"),
    "constraints": lambda clone: os.environ.update(QLORA_CONSTRAINTS="pins.txt"),
    "version": lambda clone: bootstrap.in_venv("pyvenv.cfg").write_text("version = 3.12.1\n"),
    "no python": lambda clone: bootstrap.venv_program("python").unlink(),
    "broken record": lambda clone: bootstrap.in_venv("setup.json").write_text('{"key": '),
    "moved": lambda clone: setattr(bootstrap, "ROOT", clone.rename(f"{clone}-moved")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_set_up_runs_again_after_a_change(clone, pip, change):
    bootstrap.ensure_installed({"lab"})
    change(clone)
    bootstrap.ensure_installed({"lab"})
    assert len(pip) == 2


def test_interrupted_set_up_can_be_repeated(clone, pip, programs, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "pip_install", interrupted)
        assert bootstrap.main(["lint"]) == 130
    assert "Run the same command again to continue." in capsys.readouterr().err
    assert bootstrap.main(["lint"]) == 7
    assert pip == [["--editable", ".[instructor,lab,test]"]]


def test_set_up_waits_for_another_one_and_then_installs_nothing(clone, pip, monkeypatch):
    make_venv()
    monkeypatch.setattr(bootstrap, "lock", lambda file: bootstrap.write_stamp(extras=["lab"]))
    bootstrap.ensure_installed({"lab"})
    assert pip == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fcntl")
def test_set_up_is_locked_until_it_has_installed_everything(clone, pip, monkeypatch):
    import fcntl

    def install(arguments, _):
        pip.append(arguments)
        with open(clone / ".venv.lock", "a") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    monkeypatch.setattr(bootstrap, "pip_install", install)
    bootstrap.ensure_installed({"lab"})
    assert pip == [["--editable", ".[lab]"]]


# --- commands -------------------------------------------------------------------------------------


def test_registry_agrees_with_the_commands_that_click_knows():
    known = {
        name: ({*STUDENT, *command.extras.split()}, (command.help or "").split("\n")[0])
        for name, command in cli.main.commands.items()
    }
    assert bootstrap.registry() == known and len(known) > 15


def test_command_is_run_with_its_extras_and_arguments(clone, pip, programs):
    assert bootstrap.main(["site", "--no-run"]) == 7
    assert pip == [["--editable", ".[instructor,lab,site]"]]
    assert programs == [[str(bootstrap.venv_program("course")), "--fetch", "site", "--no-run"]]


def test_unknown_command_is_reported_before_anything_is_installed(clone, capsys):
    assert bootstrap.main(["lap"]) == 1
    assert "There is no command 'lap'" in capsys.readouterr().err
    assert not bootstrap.in_venv().exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows can't replace a process")
def test_program_replaces_this_process():
    print_pid = [sys.executable, "-c", "import os; print(os.getpid()); os._exit(7)"]
    code = f"from course_utils import bootstrap; bootstrap.replace_process({print_pid!r})"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.communicate()[0].strip() == str(child.pid)
    assert child.returncode == 7


def test_record_of_the_set_up_keeps_other_entries(clone, pip):
    bootstrap.ensure_installed({"lab"})
    bootstrap.write_stamp(model={"folder": "/m"})
    bootstrap.ensure_installed({"test"})
    record = json.loads(bootstrap.in_venv("setup.json").read_text())
    assert record["model"] == {"folder": "/m"} and record["extras"] == ["lab", "test"]
