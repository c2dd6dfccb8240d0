"""Tests of what search engines, archives, Codespaces and JupyterHub read about the course."""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from course_utils import bootstrap, cli, notebooks
from course_utils.publishing import badges, metadata
from course_utils.publishing.addresses import Addresses
from course_utils.validation import CourseError
from tests.test_packaging import EXTRAS, PROJECT

ROOT = Path(__file__).resolve().parents[1]
LECTURES = notebooks.lectures(ROOT)
CITATION = """\
title: "A course"
abstract: >-
  About  numbers.
authors:
  - name: The authors
version: 1.2.3
license: [MIT, CC-BY-4.0]
keywords: [a]
references:
  - identifiers:
      - {type: other, value: "arXiv:1234.56789"}
"""


def made(folder, published=None):
    for name in ("codemeta.json", ".zenodo.json"):
        (folder / name).touch()
    files = metadata.citation_files(folder, published or Addresses())
    return {path.name: json.loads(text) for path, text in files.items()}


# --- CITATION.cff ---------------------------------------------------------------------------------


def test_the_files_in_the_repository_are_up_to_date():
    assert badges.outdated(ROOT) == []
    assert (ROOT / "codemeta.json").is_file() and (ROOT / ".zenodo.json").is_file()


def test_both_files_follow_from_the_citation(tmp_path):
    (tmp_path / "CITATION.cff").write_text(CITATION, encoding="utf-8")
    files = made(tmp_path, Addresses("https://github.com/a/b"))
    codemeta, zenodo = files["codemeta.json"], files[".zenodo.json"]
    assert codemeta["version"] == zenodo["version"] == "1.2.3"
    assert codemeta["codeRepository"] == "https://github.com/a/b"
    spdx = "https://spdx.org/licenses/"
    assert codemeta["license"] == [f"{spdx}MIT", f"{spdx}CC-BY-4.0"]
    assert codemeta["referencePublication"] == ["https://arxiv.org/abs/1234.56789"]
    assert zenodo["creators"] == [{"name": "The authors"}] and zenodo["license"] == "MIT"
    assert zenodo["related_identifiers"][0]["identifier"] == "arXiv:1234.56789"
    assert "codeRepository" not in made(tmp_path)["codemeta.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("title: x", "lacks an entry that is needed: 'abstract'"),
        ("- 1", "lacks an entry"),
        ("", "lacks an entry"),
        (CITATION.replace("license: [MIT, CC-BY-4.0]\n", ""), "lacks an entry.* 'license'"),
    ],
)
def test_a_citation_that_can_t_be_used_is_an_error(tmp_path, text, message):
    (tmp_path / "CITATION.cff").write_text(text, encoding="utf-8")
    with pytest.raises(CourseError, match=message):
        made(tmp_path)


def test_a_folder_without_a_citation_or_without_the_files_gets_no_files(tmp_path):
    assert made(tmp_path) == {}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "CITATION.cff").write_text(CITATION, encoding="utf-8")
    assert metadata.citation_files(tmp_path / "other", Addresses()) == {}


def test_course_badges_writes_both_files(tmp_path, monkeypatch):
    (tmp_path / "lectures").mkdir()
    (tmp_path / "course_utils").mkdir()
    (tmp_path / "CITATION.cff").write_text(CITATION, encoding="utf-8")
    (tmp_path / "codemeta.json").touch()
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    assert "codemeta.json is out of date" in run(cli.main, ["badges", "--check"]).output
    assert run(cli.main, ["badges"]).exit_code == 0
    assert run(cli.main, ["badges", "--check"]).exit_code == 0
    assert json.loads((tmp_path / "codemeta.json").read_text())["name"] == "A course"


# --- lectures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
def test_each_lecture_is_described_completely_and_without_markup(path):
    content = metadata.learning_resource(path)
    assert all(content.values()), content
    assert content["@type"] == "LearningResource" and content["name"][:2] == path.name[:2]
    assert re.fullmatch(r"PT\d+M", content["timeRequired"])
    assert not re.search(r"[*`\]]", json.dumps(content["teaches"] + content["description"]))


def test_a_description_can_t_end_its_script():
    script = metadata.as_script({"name": "</script><b>"})
    assert script.count("</script>") == 1
    content = script.removeprefix('<script type="application/ld+json">').removesuffix("</script>")
    assert json.loads(content) == {"name": "</script><b>"}


# --- Codespaces and JupyterHub --------------------------------------------------------------------

DOCKERFILE = ROOT / "binder" / "jupyterhub" / "Dockerfile"


def instructions():
    """Yield the instructions of the Dockerfile as lists of words."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text(encoding="utf-8"))
    for line in text.splitlines():
        if line and not line.startswith("#"):
            yield line.split(maxsplit=1)


def commands():
    """Yield the commands that the image's build runs, as lists of words."""
    for name, rest in instructions():
        if name == "RUN":
            yield from (shlex.split(part) for part in rest.split("&&"))


def test_the_image_has_no_solutions_and_copies_only_files_that_exist():
    sources = [rest.split()[-2] for name, rest in instructions() if name == "COPY"]
    assert sources == ["build/image/*.whl", "binder/jupyterhub/start-course.sh"]
    assert (ROOT / sources[1]).is_file()


def test_the_image_installs_what_a_student_needs():
    installs = [command for command in commands() if command[:2] == ["pip", "install"]]
    torch = next(word for word in installs[0] if word.startswith("torch"))
    assert Requirement(torch) in map(Requirement, PROJECT["dependencies"])
    extras = set(re.search(r"\[(.*)\]$", installs[1][-1])[1].split(","))
    assert extras == set(bootstrap.STUDENT) <= set(EXTRAS)


def test_every_command_of_the_course_in_the_image_exists():
    script = (ROOT / "binder/jupyterhub/start-course.sh").read_text(encoding="utf-8")
    used = [command[1] for command in commands() if command[0] == "course"]
    used += re.findall(r"^course (\S+)", script, re.M)
    assert used == ["fetch-model", "start"]
    for name in used:
        assert CliRunner().invoke(cli.main, [name, "--help"]).exit_code == 0


def test_the_start_script_copies_the_course_and_survives_a_failure(tmp_path):
    script = ROOT / "binder/jupyterhub/start-course.sh"
    (tmp_path / "course").write_text('#!/bin/sh\necho "$@" > "$HOME/called"\nexit 1\n')
    (tmp_path / "course").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "could not be copied" in done.stderr
    assert (tmp_path / "called").read_text() == f"start {tmp_path}/qlora-course\n"


def test_the_dev_container_sets_the_course_up():
    content = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    program, script, command = content["postCreateCommand"].split()
    assert program == "python" and (ROOT / script).is_file() and command in bootstrap.registry()
    python = re.search(r"python:(3\.\d+)-", content["image"])[1]
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    settings = content["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    for name in content["customizations"]["codespaces"]["openFiles"]:
        assert (ROOT / name).is_file()


def test_the_package_can_be_renamed_as_the_page_for_maintainers_says(tmp_path):
    page = (ROOT / "docs" / "publishing.md").read_text(encoding="utf-8")
    command = re.search(r"^sed .*pyproject\.toml$", page, re.M)[0]
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [
        Requirement(line) for lines in project["optional-dependencies"].values() for line in lines
    ]
    assert project["name"] == "NAME" and "qlora-course" not in {extra.name for extra in extras}
    assert {extra.name for extra in extras if extra.extras} == {"NAME", "psycopg"}


# --- the draft of a paper -------------------------------------------------------------------------

PAPER = ROOT / "docs" / "paper"
NUMBERS = {9: "nine", 10: "ten"}


def test_the_paper_counts_the_notebooks_that_exist_and_cites_what_it_lists():
    text = (PAPER / "paper.md").read_text(encoding="utf-8")
    exercises = list(ROOT.glob("exercises/*/*.ipynb"))
    count = f"{NUMBERS[len(LECTURES)]} lectures and {NUMBERS[len(exercises)]} exercises"
    assert count in " ".join(text.split())
    cited = set(re.findall(r"@(\w+)", text))
    listed = re.findall(r"^@\w+\{(\w+),", (PAPER / "paper.bib").read_text(encoding="utf-8"), re.M)
    assert cited == set(listed)
