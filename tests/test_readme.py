"""README.md says what is there, and its first command works: as root and as another user."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from course_utils import bootstrap, cli, notebooks

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LECTURES = notebooks.lectures(ROOT)


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README)
    assert len(targets) > 20
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing


def test_the_commands_are_there():
    targets = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", README, re.M))
    assert {"lab", "test", "site", "slides", "grade"} <= targets <= set(cli.main.commands)
    commands = set(re.findall(r"\bcourse ([a-z][a-z-]*)", README)) & set(cli.main.commands)
    assert {"grade", "release"} <= commands


def test_the_first_screen_holds_all_of_it():
    """Badges, the picture, what a reader will be able to do, and the two commands."""
    first = README.partition("\n## ")[0]
    assert "<!-- badges: begin -->" in first and "You will be able to" in first
    assert "\nmake lab " in first and "\nmake test " in first
    (picture,) = re.findall(r"!\[[^]]{30,}\]\((.+?)\)", first)
    assert (ROOT / picture).stat().st_size > 10_000
    assert len(first.splitlines()) < 40


@pytest.mark.parametrize("path", ["README.md", "docs/index.md"])
@pytest.mark.parametrize("lecture", LECTURES, ids=lambda path: path.stem)
def test_tables_ask_what_the_lectures_ask(path, lecture):
    opening = "".join(json.loads(lecture.read_text(encoding="utf-8"))["cells"][0]["source"])
    question = re.search(r"^- \*\*Question:\*\* (.+)$", opening, re.M)[1]
    text = (ROOT / path).read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if f"lectures/{lecture.name})" in line]
    assert row.endswith(f" {question} |")


# --- make lab -------------------------------------------------------------------------------------

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
PATIENCE = 60  # seconds until the server counts as not starting: the machine may be busy
PACKAGES = sysconfig.get_path("purelib")


def switched(user):
    """The options of subprocess that make a child run as this user; None is the one who tests."""
    if user is None:
        return {}
    import pwd  # Windows has none, and no root either

    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def python_for(user):
    """A Python of this version that the user may run; without one the test skips.

    The one of these tests often lies in root's home folder, which is closed to others.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    system = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin")
    for python in filter(None, (sys.executable, system)):
        with contextlib.suppress(OSError):  # the user may not run this one
            probe = [python, "-c", "import jupyter_server"]
            environment = {"PYTHONPATH": PACKAGES, "PATH": os.defpath}
            done = subprocess.run(probe, env=environment, cwd="/", **switched(user))
            if done.returncode == 0:
                return python
    pytest.skip(f"the user {user} may run no Python here that has JupyterLab")


@pytest.fixture(params=[None, "nobody"] if IS_ROOT else [None], ids=lambda user: user or "me")
def user(request):
    """Who types README's command: the one who tests, and if that is root, somebody else too."""
    return request.param


@pytest.fixture
def course(user, monkeypatch):
    """A copy of the course that is set up already, in a folder of the user."""
    monkeypatch.delenv("QLORA_CONSTRAINTS", raising=False)  # as CI sets it
    python = python_for(user)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("Makefile", "pyproject.toml", "nbgrader_config.py"):
            shutil.copy(ROOT / part, folder)
        shutil.copytree(
            ROOT / "course_utils", folder / "course_utils", ignore=lambda *_: ["__pycache__"]
        )
        (folder / "lectures").mkdir()
        shutil.copy(ROOT / "lectures" / "00_setup.ipynb", folder / "lectures")
        monkeypatch.setattr(bootstrap, "ROOT", folder)
        for program, does in (("python", ""), ("course", "-m course_utils.cli")):
            path = bootstrap.venv_program(program)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'#!/bin/sh\nexec {python} {does} "$@"\n', encoding="utf-8")
            path.chmod(0o755)
        bootstrap.write_stamp(extras=bootstrap.STUDENT)
        cli._note_model(folder)
        for path in (folder, *folder.rglob("*")) if user else ():
            shutil.chown(path, user)
        yield folder


def bare(course):
    """The environment of a machine without a display, with the course's folder as the home."""
    gone = re.compile("MAKE|MFLAGS|PYTHON|JUPYTER|IPYTHON|XDG|DISPLAY|WAYLAND|BROWSER|ARGS|ONLY")
    kept = {name: value for name, value in os.environ.items() if not gone.match(name)}
    return kept | {"HOME": str(course), "PYTHONPATH": f"{course}{os.pathsep}{PACKAGES}"}


def answer(address):
    """The status of what a server on this machine answers, whatever proxy is set."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return opener.open(address, timeout=PATIENCE).status
    except urllib.error.HTTPError as refusal:
        return refusal.code


def wait_for(found, process):
    """What `found` returns once that is true; fails if the process ends before, or takes long."""
    end = time.monotonic() + PATIENCE
    while not (result := found()):
        assert process.poll() is None and time.monotonic() < end, "the server doesn't start"
        time.sleep(0.05)
    return result


def listening(process):
    """The addresses at which the children of a process are reached."""
    family = psutil.Process(process.pid).children(recursive=True)
    sockets = [socket for child in family for socket in child.net_connections("inet")]
    return {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}


def what_outlives(process):
    """End a process alone; kills and returns those of its children that haven't ended then."""
    if process.poll() is not None:  # it has ended by itself, and its children with it
        return []
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.wait(PATIENCE)
    left = psutil.wait_procs(family, timeout=10)[1]
    for child in left:
        child.kill()
    return left


@pytest.mark.skipif(os.name == "nt", reason="Windows does without make")
def test_the_first_command_works_on_a_bare_machine(course, user):
    """By nohup, without a terminal and a browser, and behind a proxy that doesn't answer."""
    block = re.search(r"```bash\n(.+?)```", README, re.S)[1]
    command = block.splitlines()[0].partition("#")[0].split()
    assert command == ["make", "lab"]
    if sys.platform == "darwin":  # a Mac always has a browser, which shouldn't open here
        command.append("ARGS=--no-browser")
    log = course / "lab.log"
    environment = bare(course) | {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            ["nohup", *command, f"PYTHON={bootstrap.venv_program('python')}"],
            cwd=course,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **switched(user),
        )
    try:
        address, token = wait_for(
            lambda: re.search(
                r"URLs:\n\s+(http://localhost:\d+)/lab/tree/lectures/00_setup.ipynb\?(token=\w+)",
                log.read_text(encoding="utf-8"),
            ),
            process,
        ).groups()
        assert answer(f"{address}/api/contents/lectures?{token}") == 200
        assert answer(f"{address}/api/contents/lectures") == 403
        assert listening(process) <= {"127.0.0.1", "::1"}
    finally:
        left = what_outlives(process)
    assert not left, "whoever ends make ends the server"
    said = log.read_text(encoding="utf-8")
    assert ("The course runs as root here." in said) == (IS_ROOT and not user)
    assert "Traceback" not in said
