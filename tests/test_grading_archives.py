"""Test collect.archives: each file in a class's archive gets to its student, or to a person."""

import os
import stat
import struct
import tracemalloc
import zipfile

import pytest

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")

from nbgrader.coursedir import CourseDirectory
from nbgrader.plugins import ExtractorPlugin

from tests.classroom import ASSIGNMENT, zipped
from workshop.grading.collect import files as collected
from workshop.grading.collect.archives import Archives, owner_of
from workshop.grading.read import LEFT_OUT, MAX_FILES, NOBODY

MINE, NOTEBOOK = b'{"mine": 1}', f"{ASSIGNMENT}.ipynb"
JANE = "jane_12345_67890_"
OLD, NEW = (2026, 11, 1, 9, 0, 0), (2026, 11, 2, 9, 0, 0)


@pytest.fixture
def box(tmp_path):
    """A folder with the folder of the archives and the folder of the unpacked files."""
    for name in ("archive", "extracted"):
        (tmp_path / "box" / name).mkdir(parents=True)
    return tmp_path / "box"


def extract(box):
    """Unpack everything; return the files by path, and the lines in left-out.txt by student."""
    extractor = Archives(parent=ExtractorPlugin())
    extractor.parent.coursedir = CourseDirectory(root=str(box), assignment_id=ASSIGNMENT)
    before = files(box)
    extractor.extract(str(box / "archive"), str(box / "extracted"))
    changed = {name for name in files(box) if name not in before}
    assert all(name.startswith("extracted/") for name in changed)
    found = files(box / "extracted")
    notes = {name: found.pop(name) for name in list(found) if name.endswith(LEFT_OUT)}
    lines = {name.split("/")[0]: text.decode().splitlines() for name, text in notes.items()}
    assert all(line.isprintable() for each in lines.values() for line in each)
    return found, lines


def files(folder):
    """Return the contents of the files in a folder by relative path, and fail if one is a link."""
    paths = list(folder.rglob("*"))
    assert not any(path.is_symlink() for path in paths if "archive" not in path.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths if p.is_file()}


def in_zip(name, kind=stat.S_IFREG, time=OLD, compress_type=zipfile.ZIP_DEFLATED):
    """Return a ZipInfo of any file type, as other programs may have written it."""
    info = zipfile.ZipInfo("x", time)
    info.filename, info.external_attr, info.compress_type = (
        name,
        (kind | 0o644) << 16,
        compress_type,
    )
    return info


# --- whose a file is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("student01_03_lora.ipynb", ("student01", "", "03_lora.ipynb")),
        ("student01_03_lora (1).ipynb", ("student01", "", "03_lora (1).ipynb")),
        ("student01_Copy of Copy of 03_lora (12).ipynb", ("student01", "", ...)),
        ("student01_Copy_of_03_lora.ipynb", ("student01", "", "Copy_of_03_lora.ipynb")),
        ("student01_my 03_lora.IPYNB", ("student01", "", "my 03_lora.IPYNB")),
        ("student_01_03_lora.ipynb.txt", ("student_01", "", "03_lora.ipynb.txt")),
        ("jane_12345_67890_03_lora-1.ipynb", ("jane", "12345", "03_lora-1.ipynb")),
        ("jane_LATE_7_12_03_lora.ipynb", ("jane", "7", "03_lora.ipynb")),
        ("jane_12345_text.html", ("jane", "12345", "text.html")),
        ("jane_LATE_12345_link.html", ("jane", "12345", "link.html")),
        ("Sam Doe_12_assignsubmission_file_work.zip", ("Sam Doe", "12", "work.zip")),
        ("Sam Doe_12_assignsubmission_file_/03_lora.ipynb", ("Sam Doe", "12", "03_lora.ipynb")),
        ("Gal·la O’Neil–Ó_12_assignsubmission_file_/a/b.py", ("Gal·la O’Neil–Ó", "12", "a/b.py")),
        ("கவிதா_12_34_b.py", ("கவிதா", "12", "b.py")),
        # The student chooses what follows the numbers of the LMS.
        ("eve_1_2_jane_12345_67890_03_lora.ipynb", ("eve", "1", "jane_12345_67890_03_lora.ipynb")),
        ("eve_1_2_jane_03_lora.ipynb", ("eve", "1", "jane_03_lora.ipynb")),
        ("eve_1_2_Jo_3_assignsubmission_file_x.py", ("eve", "1", ...)),
        ("Eve_3_assignsubmission_file_jane_1_2_x.py", ("Eve", "3", "jane_1_2_x.py")),
        ("Eve_3_assignsubmission_file_/jane_1_2_x.py", ("Eve", "3", "jane_1_2_x.py")),
        *[
            (name, None)
            for name in (
                "03_lora.ipynb",
                "work.zip",
                "jane_12345_report.html",
                "student01_04_nf4.ipynb",
                "jane/03_lora.ipynb",
                "top/jane_1_2_03_lora.ipynb",
                "Eve!_13_assignsubmission/jane_1_2_03_lora.ipynb",
                "Default group_assignsubmission_file/jane_1_2_03_lora.ipynb",
                ".._1_2_x.py",
                "(no student)_1_2_x.py",
                "[a-z]*_1_2_x.py",
            )
        ],
    ],
)
def test_the_beginning_of_a_name_says_whose_it_is(path, owner):
    found = owner_of(path, ASSIGNMENT)
    if owner and ... in owner:
        found, owner = found[:2], owner[:2]
    assert found == owner


# --- a student's archive --------------------------------------------------------------------------


NAMES = {
    "absolute": ("/tmp/evil.ipynb", "absolute path"),
    "backslash": ("..\\..\\jane_1_2_03_lora.ipynb", "a backslash"),
    "outside": ("../../jane_1_2_03_lora/03_lora.ipynb", "outside the student's folder"),
    "new line": ("a\nnothing was left out.ipynb", "control characters"),
    "writing direction": ("a\u202ebpyni.exe", "control characters"),
    "long": ("a" * 300 + ".ipynb", "too long"),
    "twice": (NOTEBOOK, "only the newest file"),
    "a copy": ("03_lora (1).ipynb", "only the newest file"),
    "other case": (NOTEBOOK.upper(), "only the newest file"),
    "settings": ("nbgrader_config.py", "reserved"),
    "time": ("timestamp.txt", "reserved"),
    "an archive": ("more.zip", "an archive inside an archive"),
    "a link": (in_zip("l.ipynb", stat.S_IFLNK), "a link or a device"),
    "LZMA": (in_zip("x.py", compress_type=zipfile.ZIP_LZMA), "neither stored nor deflated"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("member", "reason"), NAMES.values(), ids=NAMES)
def test_a_bad_file_in_an_archive_needs_a_person_and_the_others_are_collected(box, member, reason):
    newer = in_zip(NOTEBOOK, time=NEW)
    work = zipped((newer, MINE), (member, b"evil"), ("b.py", b"b"))
    (box / "archive" / "class.zip").write_bytes(zipped((f"{JANE}work.zip", work)))
    found, notes = extract(box)
    assert found == {f"jane/{NOTEBOOK}": MINE, "jane/b.py": b"b"}
    assert [reason in line for line in notes.pop("jane")] == [True] and not notes


def changed(data, place, value):
    """Return a zip archive with another 4-byte number in its list of members."""
    place += data.index(b"PK\x01\x02")
    return data[:place] + struct.pack("<I", value) + data[place + 4 :]


ONE = zipped(("a.py", b"0" * 100))
ARCHIVES = {
    "damaged": (b"PK, but no archive", "not a zip file"),
    "false size": (changed(ONE, 24, 99), "can't be read"),
    "encrypted": (changed(ONE, 8, 1 | 8 << 16), "encrypted"),
    "no file": (zipped(("a/", b""), ("__MACOSX/._a.py", b"x")), "no file"),
    "a bomb": (zipped(("a.py", bytes(9_000_000))), "more than 300 MB"),
}


@pytest.mark.parametrize(("data", "reason"), ARCHIVES.values(), ids=ARCHIVES)
def test_a_bad_archive_needs_a_person_and_other_students_lose_nothing(
    box, monkeypatch, data, reason
):
    monkeypatch.setattr(collected, "MAX_BYTES", 400_000)
    members = [("eve_1_2_work.zip", data), (f"{JANE}{NOTEBOOK}", MINE), ("eve_1_2_b.py", b"b")]
    (box / "archive" / "class.zip").write_bytes(zipped(*members))
    found, notes = extract(box)
    assert found == {f"jane/{NOTEBOOK}": MINE, "eve/b.py": b"b"}
    assert [reason in line for line in notes.pop("eve")] == [True] and not notes


def test_a_long_list_of_files_is_not_read_into_memory(box):
    listed = b"PK\x01\x02" + bytes(42)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 1_000_000 * 46, 0, 0)
    data = zipped(("eve_1_2_work.zip", listed * 1_000_000 + end))
    (box / "archive" / "class.zip").write_bytes(data)
    tracemalloc.start()
    try:
        _, notes = extract(box)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "1,000 files" in notes["eve"][0] and peak < 250_000_000


def test_notebooks_come_first_if_there_are_too_many_files(box):
    work = zipped(*((f".git/{n}", b"") for n in range(MAX_FILES + 9)), (NOTEBOOK, MINE))
    (box / "archive" / "class.zip").write_bytes(zipped((f"{JANE}work.zip", work)))
    found, notes = extract(box)
    assert found[f"jane/{NOTEBOOK}"] == MINE and len(found) == MAX_FILES
    assert "than 1,000 files" in notes["jane"][0]


def test_nothing_in_an_archive_of_a_student_can_name_another_student(box):
    """An archive inside the class's archive replaced Jane's work and made up 50 students."""
    evil = [(in_zip(f"jane_12345_67890_{NOTEBOOK}", time=NEW), b"evil")]
    evil += [(f"made-up{n}_1_{n}_{NOTEBOOK}", b"evil") for n in range(50)]
    evil += [(f"jane_12345_67890_/{NOTEBOOK}", b"evil"), (f"x\\jane_1_2_{NOTEBOOK}", b"evil")]
    entries = [(f"{JANE}{NOTEBOOK}", MINE), ("eve_1_2_work.zip", zipped(*evil))]
    entries += [(f"eve_1_3\\..\\{JANE}{NOTEBOOK}", b"evil"), (f"x/../{JANE}x.py", b"evil")]
    (box / "archive" / "submissions.zip").write_bytes(zipped(*entries))
    found, notes = extract(box)
    assert {name.split("/")[0] for name in found} == {"jane", "eve"}
    assert found[f"jane/{NOTEBOOK}"] == MINE and "jane" not in notes
    assert ["backslash" in line for line in notes["eve"]] == [True]
    assert [
        "backslash" in notes[NOBODY][0],
        "outside the student's folder" in notes[NOBODY][1],
    ] == [True] * 2


@pytest.mark.parametrize(
    "evil",
    [
        "Eve_13_assignsubmission_file/Jane_12_assignsubmission_file_03_lora.ipynb",
        "Eve*_13_assignsubmission_file_/Jane_12_assignsubmission_file_03_lora.ipynb",
        "Group_assignsubmission_file/Jane_12_assignsubmission_file_03_lora.ipynb",
    ],
)
@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize("is_unpacked", [True, False])
def test_a_file_in_a_folder_can_t_name_another_student(box, evil, is_alone, is_unpacked):
    jane = {"Jane_12_assignsubmission_file/03_lora.ipynb": MINE, "Sam_4_9_b.py": b"b"}
    entries = {evil: b"evil"} | ({} if is_alone else jane)
    if is_unpacked:
        for name, data in entries.items():
            (box / "archive" / name).parent.mkdir(exist_ok=True)
            (box / "archive" / name).write_bytes(data)
    else:
        (box / "archive" / "class.zip").write_bytes(zipped(*entries.items()))
    found, notes = extract(box)
    jane = {} if is_alone else {f"Jane/{NOTEBOOK}": MINE}
    assert {name: data for name, data in found.items() if name.startswith("Jane")} == jane
    assert "Jane" not in notes


def test_an_honest_archive_is_unpacked_without_the_folder_around_it(box):
    big = os.urandom(3_000_000)
    inside = (("03/03_lora (1).ipynb", MINE), ("03/data/big.bin", big), ("03/", b""))
    junk = (("__MACOSX/03/._03_lora (1).ipynb", b"x"), ("03/.DS_Store", b"x"))
    entry = "Sam Doe_12_assignsubmission_file_/My Work.ZIP"
    (box / "archive" / "Course-03-77.zip").write_bytes(zipped((entry, zipped(*inside, *junk))))
    assert extract(box) == ({f"Sam Doe/{NOTEBOOK}": MINE, "Sam Doe/data/big.bin": big}, {})


# --- several files of a student, and students of one name -----------------------------------------


def test_students_of_one_name_are_told_apart_by_their_numbers(box):
    entries = [(f"jane_{n}_{n}7_{NOTEBOOK}", b"%d" % n) for n in (11, 22)]
    (box / "archive" / "class.zip").write_bytes(zipped(*entries, (f"sam_3_4_{NOTEBOOK}", b"3")))
    found, notes = extract(box)
    assert found == {
        f"{s}/{NOTEBOOK}": c for s, c in (("jane_11", b"11"), ("jane_22", b"22"), ("sam", b"3"))
    }
    assert not notes


def test_the_newest_archive_with_files_of_a_student_counts(box):
    first = zipped(
        (in_zip(f"{JANE}{NOTEBOOK}"), b"old"), (f"{JANE}b.py", b"old"), ("sam_3_4_b.py", b"s")
    )
    late = zipped((in_zip("jane_LATE_12345_68888_03_lora-1.ipynb", time=NEW), b"new"))
    (box / "archive" / "submissions.zip").write_bytes(first)
    (box / "archive" / "submissions (1).zip").write_bytes(late)
    assert extract(box) == ({f"jane/{NOTEBOOK}": b"new", "sam/b.py": b"s"}, {})


def test_a_corrected_file_beside_the_archive_is_never_dropped_in_silence(box):
    (box / "archive" / f"jane_{NOTEBOOK}").write_bytes(b"corrected")
    os.utime(box / "archive" / f"jane_{NOTEBOOK}", (1_000_000_000, 1_000_000_000))
    (box / "archive" / "submissions.zip").write_bytes(zipped((f"{JANE}{NOTEBOOK}", MINE)))
    found, notes = extract(box)
    assert found == {f"jane/{NOTEBOOK}": MINE} and "only the newest" in notes["jane"][0]


def test_an_archive_with_an_unclear_name_is_not_opened(box):
    for name in ("class_03_lora.zip", "jane_03_lora (1).zip"):
        (box / "archive" / name).write_bytes(zipped((f"{JANE}{NOTEBOOK}", b"?")))
    (box / "archive" / "QLORA_26-Exercise 03_lora-777.zip").write_bytes(
        zipped((f"sam_3_4_{NOTEBOOK}", MINE))
    )
    found, notes = extract(box)
    assert found == {f"sam/{NOTEBOOK}": MINE}
    assert all("the class's archive or a student's" in line for line in notes[NOBODY])


def test_whatever_belongs_to_no_student_is_noted(box, tmp_path):
    (tmp_path / "secret.ipynb").write_text("secret")
    (box / "archive" / f"sam_{NOTEBOOK}").symlink_to(tmp_path / "secret.ipynb")
    (box / "archive" / "folder").symlink_to(tmp_path)
    os.mkfifo(box / "archive" / "jo_03_lora.ipynb")
    for name in ("class.tar.gz", "broken.zip", "report.ipynb", "jane_04_nf4.ipynb", ".DS_Store"):
        (box / "archive" / name).write_bytes(b"?")
    (box / "archive" / "class.zip").write_bytes(
        zipped((NOTEBOOK, b"?"), (f"{JANE}{NOTEBOOK}", MINE))
    )
    found, notes = extract(box)
    assert found == {f"jane/{NOTEBOOK}": MINE}
    assert all("a link or a device" in notes.pop(each)[0] for each in ("sam", "jo"))
    lines = "\n".join(notes.pop(NOBODY))
    for name in ("class.tar.gz", "broken.zip", "report.ipynb", "jane_04_nf4.ipynb", "folder"):
        assert f"'{name}' was left out" in lines
    assert f"'class.zip/{NOTEBOOK}' was left out: its name doesn't begin with a student's" in lines
    assert lines.count("\n") == 5 and not notes
