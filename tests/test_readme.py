"""README.md says what is there: its links, its targets of make, and the table of lectures."""

import json
import re
from pathlib import Path

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
    assert {"lab", "test", "site", "slides", "grade"} <= targets <= set(bootstrap.COMMANDS)
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
