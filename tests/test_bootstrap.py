"""The set-up, with stand-ins for pip, the network and the machine. Nothing here leaves it."""

import contextlib
import http.server
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import namedtuple

import pytest

from course_utils import bootstrap
from course_utils.bootstrap import SetupError


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """An empty copy of the course, set up by nobody, on a machine without environment variables."""
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    for name in ("QLORA_CONSTRAINTS", "QLORA_COURSE_CACHE", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pyproject.toml").write_text('dependencies = ["torch>=2.11"]\n')
    return tmp_path


@pytest.fixture
def venv(clone):
    """A `.venv` that looks complete: a Python, its version, a place for packages."""
    make_venv()
    return clone / ".venv"


def make_venv():
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
    monkeypatch.setattr(
        bootstrap, "pip_install", lambda arguments, title, lock: asked.append(arguments)
    )
    return asked


@pytest.fixture
def programs(monkeypatch):
    """Stands in for the programs of `.venv`; a list of the command lines that were run."""
    ran = []

    def foreground(*command):
        ran.append(command)
        return 0

    monkeypatch.setattr(bootstrap, "foreground", foreground)
    return ran


# --- Python --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 5), (3, 13, 9)])
def test_a_supported_python_passes(version):
    bootstrap.check_python(version)


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 14), (3, 14, 0), (4, 0, 0)])
def test_another_python_is_told_what_is_needed(version):
    with pytest.raises(SetupError) as fault:
        bootstrap.check_python(version, "/opt/python")
    assert "3.11, 3.12 or 3.13" in str(fault.value)
    assert "/opt/python is Python " + ".".join(map(str, version)) in str(fault.value)


def test_a_too_old_python_ends_with_one_line_and_no_traceback(clone, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "OLDEST_PYTHON", (3, 99))
    monkeypatch.setattr(bootstrap, "FIRST_UNTESTED_PYTHON", (3, 100))
    assert bootstrap.main(["lab"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert list(clone.iterdir()) == [clone / "pyproject.toml"]


def test_a_python_without_venv_names_debians_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SetupError, match=r"apt install python3\.\d+-venv"):
        bootstrap.check_venv_module()


# --- disk ----------------------------------------------------------------------------------------


def give_disk(monkeypatch, free):
    usage = namedtuple("usage", "total used free")(500_000_000_000, 0, int(free))
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda _: usage)


def on(monkeypatch, system, gpu=False):
    monkeypatch.setattr(bootstrap.platform, "system", lambda: system)
    monkeypatch.setattr(bootstrap, "has_nvidia_gpu", lambda: gpu)


def test_a_full_disk_is_told_with_both_numbers(clone, monkeypatch):
    give_disk(monkeypatch, 1.2e9)
    with pytest.raises(SetupError, match=r"needs about 4\.0 GB, and 1\.2 GB are free"):
        bootstrap.check_disk(cpu_torch=True)


def test_cuda_on_linux_needs_more_disk(clone, monkeypatch):
    give_disk(monkeypatch, 5e9)
    on(monkeypatch, "Linux")
    bootstrap.check_disk(cpu_torch=True)
    with pytest.raises(SetupError, match=r"about 12\.0 GB"):
        bootstrap.check_disk(cpu_torch=False)
    on(monkeypatch, "Windows")
    bootstrap.check_disk(cpu_torch=False)


def test_what_is_installed_already_is_not_asked_for_again(venv, monkeypatch):
    (venv / "torch.so").write_bytes(bytes(1_000_000))
    monkeypatch.setattr(bootstrap, "CPU_BYTES", 1_500_000)
    give_disk(monkeypatch, 600_000)
    bootstrap.check_disk(cpu_torch=True)
    (venv / "torch.so").unlink()
    with pytest.raises(SetupError):
        bootstrap.check_disk(cpu_torch=True)


def test_a_full_disk_stops_before_anything_is_made(clone, pip, monkeypatch, capsys):
    give_disk(monkeypatch, 0)
    assert bootstrap.main(["setup"]) == 1
    assert "Not enough disk space" in capsys.readouterr().err
    assert not pip and not bootstrap.in_venv().exists()


# --- which PyTorch -------------------------------------------------------------------------------


@contextlib.contextmanager
def server(status=200, silent=False):
    """A web server on this machine that answers with a status, or keeps its callers waiting."""
    leave = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if silent:
                leave.wait()
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.end_headers()

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        leave.set()
        running.shutdown()
        running.server_close()


@pytest.fixture
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_an_index_that_answers_answers(no_proxy):
    with server() as url:
        assert bootstrap.answers(url, patience=60)


@pytest.mark.parametrize("status", [403, 404, 503])
def test_an_error_page_is_no_answer(no_proxy, status):
    with server(status) as url:
        assert not bootstrap.answers(url, patience=60)


def test_an_index_that_keeps_silent_is_given_up(no_proxy):
    with server(silent=True) as url:
        assert not bootstrap.answers(url, patience=0.1)


def test_an_index_that_is_not_there_is_no_answer(no_proxy):
    with server() as url:
        pass
    assert not bootstrap.answers(url, patience=60)


def test_an_nvidia_driver_is_seen_by_its_program_or_by_the_kernel(monkeypatch):
    monkeypatch.setattr(bootstrap.shutil, "which", lambda _: None)
    monkeypatch.setattr(bootstrap.os.path, "exists", lambda _: False)
    assert not bootstrap.has_nvidia_gpu()
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: "/usr/bin/" + name)
    assert bootstrap.has_nvidia_gpu()
    monkeypatch.setattr(bootstrap.shutil, "which", lambda _: None)
    monkeypatch.setattr(bootstrap.os.path, "exists", lambda path: path == "/proc/driver/nvidia")
    assert bootstrap.has_nvidia_gpu()


@pytest.mark.parametrize(
    ("system", "gpu", "reachable", "cpu_torch"),
    [
        ("Linux", False, True, True),
        ("Linux", False, False, False),
        ("Linux", True, True, False),
        ("Darwin", False, True, False),
        ("Windows", False, True, False),
    ],
)
def test_the_cpu_build_is_for_linux_without_a_gpu(monkeypatch, system, gpu, reachable, cpu_torch):
    on(monkeypatch, system, gpu)
    monkeypatch.setattr(bootstrap, "answers", lambda url: reachable)
    assert bootstrap.wants_cpu_torch() is cpu_torch


def test_the_cpu_build_comes_first_and_alone_from_pytorchs_index(venv, pip):
    bootstrap.install({"lab"}, cpu_torch=True, lock=None)
    index = ["--index-url", bootstrap.TORCH_CPU_INDEX, "--no-deps"]
    assert pip == [["torch>=2.11", *index], ["--editable", ".[lab]"]]


def test_an_installed_torch_stays(venv, pip):
    (venv / "lib" / "python3.11" / "site-packages" / "torch-2.13.0+cpu.dist-info").mkdir()
    bootstrap.install({"lab"}, cpu_torch=True, lock=None)
    assert pip == [["--editable", ".[lab]"]]


def test_without_the_index_torch_comes_as_any_dependency(venv, pip):
    bootstrap.install({"lab", "test"}, cpu_torch=False, lock=None)
    assert pip == [["--editable", ".[lab,test]"]]


# --- pip's faults --------------------------------------------------------------------------------

RETRY = (
    "WARNING: Retrying (Retry(total={}, connect=None, read=None, redirect=None, status=None)) "
    "after connection broken by '{}': /simple/click/\n"
)
NOT_FOUND = (
    "ERROR: Could not find a version that satisfies the requirement click (from versions: none)\n"
    "ERROR: No matching distribution found for click\n"
)
RESOLUTION = 'NameResolutionError("Failed to resolve ([Errno -3] Temporary failure)")'


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (RETRY.format(1, RESOLUTION) + RETRY.format(0, RESOLUTION) + NOT_FOUND, "No network"),
        (RETRY.format(0, "NewConnectionError('[Errno 111] refused')") + NOT_FOUND, "No network"),
        ("ERROR: Could not install packages due to an OSError: ... Read timed out.", "No network"),
        (RETRY.format(0, "SSLError(SSLCertVerificationError())") + NOT_FOUND, "PIP_CERT"),
        ("ERROR: Could not install: [Errno 28] No space left on device: '/x'", "disk is full"),
        ("OSError: [Errno 122] Disk quota exceeded", "disk is full"),
        (NOT_FOUND.replace("click", "torch>=2.11"), "no build of torch>=2.11 for this system"),
        (RETRY.format(2, RESOLUTION) + NOT_FOUND, "no build of click for this system"),
        ("ERROR: Could not install: [Errno 13] Permission denied: 'a.py'", "can't be written"),
    ],
)
def test_a_known_fault_of_pip_becomes_one_sentence(clone, output, sentence):
    told = bootstrap.explain(output)
    assert sentence in told
    assert "\n" not in told


def test_an_unknown_fault_shows_the_end_of_the_log(clone):
    told = bootstrap.explain("\n".join(f"line {n}" for n in range(100)))
    assert "setup.log" in told
    assert "line 99" in told and "line 85" in told and "line 84" not in told


def test_real_pip_without_a_network(venv, no_proxy, monkeypatch):
    pytest.importorskip("pip", reason="uv makes environments without pip")
    monkeypatch.setattr(bootstrap, "venv_program", lambda name: sys.executable)
    monkeypatch.setattr(bootstrap, "RETRIES", 1)
    with server() as url:
        pass  # its port is closed from here on
    arguments = ["--index-url", url, "--target", str(venv / "out"), "no-such-package-of-the-course"]
    with pytest.raises(SetupError, match="^No network"), bootstrap.one_at_a_time() as lock:
        bootstrap.pip_install(arguments, "Trying", lock)
    assert "Retrying" in (venv / "setup.log").read_text()


def test_pip_is_held_to_the_constraints(venv, monkeypatch):
    commands = []
    monkeypatch.setattr(
        bootstrap, "watch", lambda command, *_: commands.append(command) or 0
    )  # 0: pip was content
    bootstrap.pip_install(["a"], "Trying", None)
    (venv.parent / "pins.txt").touch()
    monkeypatch.setenv("QLORA_CONSTRAINTS", "pins.txt")
    bootstrap.pip_install(["a"], "Trying", None)
    assert "--constraint" not in commands[0]
    assert commands[1][-2:] == ["--constraint", str(venv.parent.resolve() / "pins.txt")]


def test_constraints_that_are_not_there_are_named(clone, pip, monkeypatch, capsys):
    monkeypatch.setenv("QLORA_CONSTRAINTS", "nowhere.txt")
    assert bootstrap.main(["setup"]) == 1
    assert "nowhere.txt, but there is no such file" in capsys.readouterr().err


def test_what_leads_pip_astray_is_kept_from_it(monkeypatch):
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    environment = bootstrap.child_environment()
    assert "PIP_USER" not in environment and "PYTHONPATH" not in environment
    assert environment["HTTPS_PROXY"] == "http://proxy:3128"


# --- progress ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", "starting"),
        ("Collecting torch>=2.11\n  Downloading torch.whl (180 MB)\n", "Downloading torch.whl"),
        ("Installing collected packages: a, b, c\n  Attempting uninstall: a\n", "3 packages"),
    ],
)
def test_the_log_tells_what_pip_is_doing(tmp_path, log, words):
    (tmp_path / "log").write_text(log)
    assert words in bootstrap.doing(tmp_path / "log")


def test_progress_redraws_one_line_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    progress = bootstrap.Progress("Installing", terminal)
    progress.show("Collecting a-package " + "x" * 500)
    progress.show("Collecting another")
    progress.done()
    assert "\n" not in terminal.getvalue()
    assert "another" in terminal.getvalue() and terminal.getvalue().endswith(" \r")


def test_progress_is_rare_in_a_file():
    every_time, never = io.StringIO(), io.StringIO()
    bootstrap.Progress("Installing", every_time, every=0).show("Collecting a")
    bootstrap.Progress("Installing", never, every=float("inf")).show("Collecting a")
    assert every_time.getvalue() == "Installing (0 s): Collecting a\n"
    assert never.getvalue() == ""


# --- .venv ---------------------------------------------------------------------------------------


def test_states_of_an_environment(clone):
    assert bootstrap.venv_state() == "missing"
    (clone / ".venv").mkdir()
    assert bootstrap.venv_state() == "broken"


@pytest.mark.parametrize("wreck", ["empty", "no Python"])
def test_a_half_made_environment_is_made_anew(clone, wreck, capsys):
    (clone / ".venv").mkdir()
    if wreck == "no Python":
        make_venv()
    assert bootstrap.venv_state() == "broken"
    bootstrap.ensure_venv()
    assert bootstrap.venv_state() == "works"
    assert "anew" in capsys.readouterr().out


@pytest.fixture
def without_pip(clone):
    """What uv makes, or what Ctrl-C leaves when it comes between Python and pip."""
    make = [sys.executable, "-m", "venv", "--without-pip", clone / ".venv"]
    assert bootstrap.quietly(make)[0] == 0
    (clone / ".venv" / "mine").touch()


def test_an_environment_without_pip_gets_it_and_keeps_the_rest(without_pip):
    assert bootstrap.venv_state() == "without pip"
    bootstrap.ensure_venv()
    assert bootstrap.venv_state() == "works"
    assert bootstrap.in_venv("mine").exists()


def test_an_environment_that_cannot_be_mended_is_made_anew(without_pip, capsys):
    (site,) = bootstrap.site_packages()
    (site / "pip").mkdir()
    (site / "pip" / "__init__.py").write_text("")
    (site / "pip-99.dist-info").mkdir()
    (site / "pip-99.dist-info" / "METADATA").write_text("Name: pip\nVersion: 99\n")
    assert bootstrap.venv_state() == "without pip"
    bootstrap.ensure_venv()
    assert bootstrap.venv_state() == "works"
    assert "anew" in capsys.readouterr().out


def test_an_environment_of_another_python_is_not_thrown_away(clone, monkeypatch):
    (clone / ".venv").mkdir()
    monkeypatch.setattr(bootstrap, "quietly", lambda _: (0, "3 9 18\n"))
    with pytest.raises(SetupError, match=r"delete that folder\) is Python 3\.9\.18"):
        bootstrap.ensure_venv()


def test_an_environment_that_works_is_left_alone(clone, monkeypatch):
    monkeypatch.setattr(bootstrap, "venv_state", lambda: "works")
    bootstrap.ensure_venv()
    assert not bootstrap.in_venv().exists()


def test_only_half_installed_packages_are_forgotten(venv):
    site = venv / "lib" / "python3.11" / "site-packages"
    records = {
        "whole-1.0.dist-info": "whole-1.0.dist-info/INSTALLER,sha256=x,4\n",
        "unpacked-1.0.dist-info": "unpacked-1.0.dist-info/METADATA,sha256=x,4\n",
        "cut_off-1.0.dist-info": None,
    }
    for name, record in records.items():
        (site / name).mkdir()
        if record is not None:
            (site / name / "RECORD").write_text(record)
    bootstrap.forget_half_installed()
    assert [path.name for path in site.iterdir()] == ["whole-1.0.dist-info"]


# --- once, and only once -------------------------------------------------------------------------


def test_the_second_set_up_does_nothing(clone, pip):
    bootstrap.ensure_installed(("lab",))
    bootstrap.ensure_installed(("lab",))
    bootstrap.ensure_installed(())
    assert pip == [["--editable", ".[lab]"]]


def test_extras_are_added_and_never_lost(clone, pip):
    bootstrap.ensure_installed(("lab",))
    bootstrap.ensure_installed(("test",))
    bootstrap.ensure_installed(("lab", "test"))
    assert pip == [["--editable", ".[lab]"], ["--editable", ".[lab,test]"]]


@pytest.mark.parametrize("change", ["pyproject", "constraints", "python", "stamp", "moved"])
def test_a_change_sets_up_again(clone, pip, monkeypatch, change, tmp_path_factory):
    bootstrap.ensure_installed(("lab",))
    if change == "pyproject":
        (clone / "pyproject.toml").write_text("[project]\n")
    elif change == "constraints":
        (clone / "pins.txt").write_text("torch==2.13.0\n")
        monkeypatch.setenv("QLORA_CONSTRAINTS", "pins.txt")
    elif change == "python":
        bootstrap.in_venv("pyvenv.cfg").write_text("version = 3.12.1\n")
    elif change == "stamp":
        bootstrap.in_venv("setup.json").write_text('{"key": ')
    else:
        new = tmp_path_factory.mktemp("elsewhere") / "clone"
        clone.rename(new)
        monkeypatch.setattr(bootstrap, "ROOT", new)
    assert not bootstrap.is_installed(("lab",))
    bootstrap.ensure_installed(("lab",))
    assert len(pip) == 2


def test_a_python_that_is_gone_sets_up_again(clone, pip):
    bootstrap.ensure_installed(("lab",))
    bootstrap.venv_program("python").unlink()
    assert not bootstrap.is_installed(("lab",))


def test_an_interrupted_set_up_goes_on(clone, pip, programs, monkeypatch, capsys):
    complete = bootstrap.pip_install

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap, "pip_install", interrupted)
    assert bootstrap.main(["lint"]) == 130
    assert "goes on from here" in capsys.readouterr().err
    assert not bootstrap.is_installed(())

    monkeypatch.setattr(bootstrap, "pip_install", complete)
    cleaned = []
    monkeypatch.setattr(bootstrap, "forget_half_installed", lambda: cleaned.append(True))
    assert bootstrap.main(["lint"]) == 0
    assert cleaned and bootstrap.is_installed(("lab", "test"))


def test_the_lock_holds_out_everyone_else(clone):
    with bootstrap.one_at_a_time(), open(clone / ".venv.lock", "a") as other:
        assert not bootstrap.try_lock(other)
    with open(clone / ".venv.lock", "a") as other:
        assert bootstrap.try_lock(other)


def test_two_set_ups_at_once_install_once(clone, pip, monkeypatch, capsys):
    inside, go_on, waiting = threading.Event(), threading.Event(), threading.Event()

    def slow_install(extras, cpu_torch, lock):
        pip.append(extras)
        inside.set()
        assert go_on.wait(60)

    def say(text):
        if "waiting" in text:
            waiting.set()

    monkeypatch.setattr(bootstrap, "install", slow_install)
    monkeypatch.setattr(bootstrap, "say", say)
    one, other = (
        threading.Thread(target=bootstrap.ensure_installed, args=(("lab",),)) for _ in range(2)
    )
    one.start()
    assert inside.wait(60)
    other.start()
    assert waiting.wait(60)
    go_on.set()
    one.join(60)
    other.join(60)
    assert pip == [{"lab"}]
    assert bootstrap.is_installed(("lab",))


# --- the model -----------------------------------------------------------------------------------


@pytest.fixture
def model(venv, tmp_path_factory, programs, monkeypatch):
    """A model that `course fetch-model` is said to have put into this folder."""
    folder = tmp_path_factory.mktemp("model")
    monkeypatch.setattr(bootstrap, "quietly", lambda _: (0, f"a warning\n{folder}\n"))
    return folder


def test_the_model_is_fetched_once(model, programs):
    assert bootstrap.ensure_model() == bootstrap.ensure_model() == 0
    assert programs == [("course", "fetch-model")]


def test_a_model_that_is_gone_is_fetched_again(model, programs):
    bootstrap.ensure_model()
    model.rmdir()
    bootstrap.ensure_model()
    assert len(programs) == 2


def test_another_cache_needs_the_model_too(model, programs, monkeypatch):
    bootstrap.ensure_model()
    monkeypatch.setenv("QLORA_COURSE_CACHE", "/elsewhere")
    bootstrap.ensure_model()
    assert len(programs) == 2


def test_a_model_is_not_noted_in_an_environment_that_others_own(model, programs, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(bootstrap, "write_stamp", refuse)
    assert bootstrap.ensure_model() == 0
    assert programs == [("course", "fetch-model")]


def test_a_failed_download_ends_the_command(venv, pip, monkeypatch):
    bootstrap.write_stamp(extras=bootstrap.STUDENT)
    monkeypatch.setattr(bootstrap, "foreground", lambda *_: 1)
    assert bootstrap.main(["lab"]) == 1
    assert "model" not in json.loads((venv / "setup.json").read_text())


# --- commands ------------------------------------------------------------------------------------


@pytest.fixture
def everything(venv, monkeypatch):
    """A machine on which all has been set up."""
    bootstrap.write_stamp(extras=bootstrap.MEASURER)
    monkeypatch.setattr(bootstrap, "ensure_model", lambda: 0)
    monkeypatch.chdir(venv.parent)


LINT = [("python", "-m", *linter) for linter in bootstrap.LINTERS]
FAST = ("-m", "not slow", "-n", "2", "--dist", "loadfile")
ENVIRONMENTS = ("python", "-m", "benchmarks", "environments")
GPU_CHECK = ("python", "-m", "benchmarks", "gpu_check")


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        (["setup"], []),
        (["lab", "--no-browser"], [("course", "lab", "--no-browser")]),
        (["run", "--only", "07"], [("course", "run", "--only", "07")]),
        (["check"], [("course", "check")]),
        (["fetch-model"], [("course", "fetch-model")]),
        (["release", "--check"], [("course", "release", "--check")]),
        (["grade", "03"], [("course", "grade", "03")]),
        (["site", "--no-run"], [("course", "site", "--no-run")]),
        (["slides", "--only", "07"], [("course", "slides", "--only", "07")]),
        (["bench", "codec"], [("course", "bench", "codec")]),
        (["environments", "colab"], [(*ENVIRONMENTS, "colab")]),
        (["test-colab", "--only", "07"], [(*ENVIRONMENTS, "colab", "--only", "07")]),
        (["gpu-check", "--output", "x"], [(*GPU_CHECK, "--output", "x")]),
        (["lint"], LINT),
        (["test", "-x"], [*LINT, ("python", "-m", "pytest", *FAST, "-x")]),
        (["test-all"], [*LINT, ("python", "-m", "pytest")]),
    ],
)
def test_each_command_runs_its_programs(everything, programs, line, runs):
    assert bootstrap.main(line) == 0
    root = str(bootstrap.ROOT) + os.sep
    assert [tuple(word.removeprefix(root) for word in ran) for ran in programs] == runs


def test_the_gpu_check_gets_no_model_before_it_has_seen_a_card(everything, programs, monkeypatch):
    asked = []
    monkeypatch.setattr(bootstrap, "ensure_model", lambda: asked.append(True) or 0)
    assert bootstrap.main(["gpu-check"]) == 0
    assert not asked
    assert bootstrap.main(["run"]) == 0
    assert asked == [True]


def test_every_command_is_tried_above():
    tried = test_each_command_runs_its_programs.pytestmark[0].args[1]
    assert {line[0] for line, _ in tried} == set(bootstrap.COMMANDS)


def test_a_failing_linter_ends_the_tests(everything, monkeypatch):
    ran = []
    monkeypatch.setattr(bootstrap, "foreground", lambda *command: ran.append(command) or 3)
    assert bootstrap.main(["test"]) == 3
    assert ran == LINT[:1]


def test_help_lists_every_command(capsys):
    assert bootstrap.main([]) == bootstrap.main(["help"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    listed = [words[0] for words in lines if words and words[0] in bootstrap.COMMANDS]
    assert listed == 2 * list(bootstrap.COMMANDS)


@pytest.mark.parametrize("line", [["lap"], ["setup", "now"], ["lint", "all"]])
def test_a_wrong_command_line_is_told(clone, line, capsys):
    assert bootstrap.main(line) == 2
    assert line[-1] in capsys.readouterr().err
    assert not bootstrap.in_venv().exists()


def test_outside_a_clone_there_is_nothing_to_set_up(clone, capsys):
    (clone / "pyproject.toml").unlink()
    assert bootstrap.main(["setup"]) == 1
    assert "isn't a copy of the course" in capsys.readouterr().err


def test_a_program_of_the_environment_hands_its_status_on(monkeypatch):
    monkeypatch.setattr(bootstrap, "venv_program", lambda name: sys.executable)
    assert bootstrap.foreground("python", "-c", "raise SystemExit(7)") == 7


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking it")
def test_whoever_ends_the_command_ends_its_program(monkeypatch):
    """Also where SIGTERM reaches this process alone, as by `kill` or the end of a container."""
    monkeypatch.setattr(bootstrap, "venv_program", lambda name: sys.executable)
    ends_its_parent = "import os, time; os.kill(os.getppid(), 15); time.sleep(5)"

    def mine(*_):
        pass

    before = signal.signal(signal.SIGTERM, mine)
    try:
        assert bootstrap.foreground("python", "-c", ends_its_parent) == -signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locales, and no shell scripts")
def test_a_path_that_is_not_ascii_in_a_locale_that_is(tmp_path, monkeypatch):
    monkeypatch.delenv("QLORA_CONSTRAINTS", raising=False)
    folder = tmp_path / "für Übungen"
    (folder / "course_utils").mkdir(parents=True)
    script = shutil.copy(bootstrap.__file__, folder / "course_utils")
    (folder / "pyproject.toml").touch()
    monkeypatch.setattr(bootstrap, "ROOT", folder)
    make_venv()
    bootstrap.in_venv("pyvenv.cfg").write_text("home = /Übung\nversion = 3.11.7\n", "utf-8")
    bootstrap.venv_program("course").write_text("#!/bin/sh\nexit 7\n", "utf-8")
    bootstrap.venv_program("course").chmod(0o755)
    bootstrap.write_stamp(extras=bootstrap.STUDENT)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, script, "release"]
    done = subprocess.run(command, env=os.environ | ascii_only, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"", b"")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root and Windows write anyway")
def test_a_read_only_folder_is_told(clone, pip, capsys):
    clone.chmod(0o500)
    try:
        assert bootstrap.main(["setup"]) == 1
    finally:
        clone.chmod(0o700)
    assert "can't be written to" in capsys.readouterr().err
