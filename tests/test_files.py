"""Test files: readers see complete content only, and interrupted runs leave nothing behind."""

import multiprocessing

import pytest

from course_utils.machine.files import PART, write_atomically, write_text
from course_utils.machine.validation import CourseError


def write_often(path, letter):
    for _ in range(50):
        write_atomically(path, letter.encode() * 100_000)


def test_readers_see_complete_content_while_several_processes_write(tmp_path):
    path = tmp_path / "page.html"
    write_atomically(path, b"a" * 100_000)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in (b"a" * 100_000, b"b" * 100_000)
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("alone", [True, False])
def test_the_only_writer_removes_files_of_interrupted_runs(tmp_path, alone):
    for name in ("page.html.1", "page.css.1"):
        (tmp_path / f"{name}{PART}").touch()
    write_atomically(tmp_path / "page.html", b"text", alone=alone)
    left = {path.name for path in tmp_path.glob(f"*{PART}")}
    assert left == {f"page.css.1{PART}"} | ({f"page.html.1{PART}"} if not alone else set())


def test_a_symbolic_link_is_replaced_and_its_target_is_kept(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert target.read_text() == "old" and link.read_text() == "new" and not link.is_symlink()


def test_a_folder_with_the_name_of_the_file_raises_an_error(tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(CourseError, match="a folder has this name: move or rename"):
        write_text(tmp_path / "page.html", "text")
