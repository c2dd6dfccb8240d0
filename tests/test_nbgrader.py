"""Test the settings with which nbgrader finds the course's folders and its exchange.

test_nbgrader_browser.py tests a whole cycle, from the release of an assignment to the feedback.
"""

import shutil
import stat
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")

from traitlets.config.loader import PyFileConfigLoader

from tests.classroom import course

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nbgrader's exchange needs POSIX")


def settings(folder):
    """Return the settings in a folder, as nbgrader reads them."""
    return PyFileConfigLoader("nbgrader_config.py", str(folder)).load_config()


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """Return a copy of the course on a machine without an exchange."""
    monkeypatch.delenv("QLORA_COURSE_EXCHANGE", raising=False)
    return course(tmp_path / "course")


@pytest.mark.parametrize("folder", [".", "my_assignments"])
def test_both_settings_files_give_the_same_folders(copy, folder, monkeypatch):
    monkeypatch.chdir("/")
    config = settings(copy / folder)
    assert config.CourseDirectory.root == str(copy)
    assert config.CourseDirectory.source_directory == "solutions"
    assert config.CourseDirectory.release_directory == "exercises"
    assert config.Exchange.root == str(copy / "exchange")
    assert config.Exchange.assignment_dir == str(copy / "my_assignments")


def test_everybody_can_write_to_the_exchange_but_remove_only_own_files(copy):
    settings(copy)
    assert stat.S_IMODE((copy / "exchange").stat().st_mode) == 0o1777


def test_a_class_can_choose_its_exchange(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("QLORA_COURSE_EXCHANGE", str(tmp_path / "for" / "all"))
    assert settings(copy).Exchange.root == str(tmp_path / "for" / "all")
    assert (tmp_path / "for" / "all").is_dir() and not (copy / "exchange").exists()


def test_alembic_is_found_without_an_activated_environment(copy, monkeypatch):
    monkeypatch.setenv("PATH", "/bin")
    assert not shutil.which("alembic")
    settings(copy)
    assert Path(shutil.which("alembic")).parent == Path(sys.executable).parent
