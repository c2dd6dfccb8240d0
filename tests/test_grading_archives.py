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

from tests.classroom import zipped
from workshop.grading.collect import files as collected
from workshop.grading.collect.archives import Archives, owner_of
from workshop.grading.read import LEFT_OUT, MAX_FILES, NOBODY

ASSIGNMENT = "03_lora"
MINE, NOTEBOOK = b'{"mine": 1}', f"{ASSIGNMENT}.ipynb"
JANE = "jane_12345_67890_"


@pytest.fixture
def extract(tmp_path):
    """Return a function that collects the entries of the class's archive.

    The function returns the files by path, and the lines in left-out.txt by student. Files in the
    folder `beside` are beside the archive.
    """
    beside, extracted, old = (tmp_path / name for name in ("beside", "extracted", "submitted"))
    beside.mkdir()
    (old / NOBODY / ASSIGNMENT).mkdir(parents=True)

    def run(*entries):
        if entries:
            (beside / "submissions.zip").write_bytes(zipped(*entries))
        extractor = Archives(parent=ExtractorPlugin())
        extractor.parent.coursedir = CourseDirectory(root=str(tmp_path), assignment_id=ASSIGNMENT)
        extractor.parent.fail = pytest.fail
        extractor.extract(str(beside), str(extracted))
        assert {*tmp_path.iterdir()} == {beside, extracted, old} and not [*old.glob("*/*")]
        paths = [path.relative_to(extracted) for path in extracted.rglob("*") if path.is_file()]
        found = {path.as_posix(): (extracted / path).read_bytes() for path in paths}
        notes = {p.parts[0]: found.pop(str(p)).decode() for p in paths if p.name == LEFT_OUT}
        return found, {student: text.splitlines() for student, text in notes.items()}

    run.beside = beside
    return run


def in_zip(name, kind=stat.S_IFREG, compress_type=zipfile.ZIP_DEFLATED):
    """Return a ZipInfo of any file type, as other programs may have written it."""
    info = zipfile.ZipInfo("x", (2026, 11, 1, 9, 0, 0))
    info.filename, info.external_attr = name, (kind | 0o644) << 16
    info.compress_type = compress_type
    return info


OWNERS = {
    "student01_Copy_of_03_lora.ipynb": ("student01", "", "Copy_of_03_lora.ipynb"),
    "student01_my 03_lora (1).IPYNB": ("student01", "", "my 03_lora (1).IPYNB"),
    "student_01_03_lora.ipynb.txt": ("student_01", "", "03_lora.ipynb.txt"),
    "jane_LATE_7_12_03_lora.ipynb": ("jane", "7", "03_lora.ipynb"),
    "jane_12345_text.html": ("jane", "12345", "text.html"),
    "Sam Doe_12_assignsubmission_file_work.zip": ("Sam Doe", "12", "work.zip"),
    "Sam Doe_12_assignsubmission_file/03_lora.ipynb": ("Sam Doe", "12", "03_lora.ipynb"),
    "Gal·la O’Neil–Ó_12_assignsubmission_file_/a/b.py": ("Gal·la O’Neil–Ó", "12", "a/b.py"),
    "கவிதா_12_34_b.py": ("கவிதா", "12", "b.py"),
    # The student chooses what follows the numbers of the LMS.
    "eve_1_2_jane_03_lora.ipynb": ("eve", "1", "jane_03_lora.ipynb"),
    "Eve_3_assignsubmission_file_/jane_1_2_x.py": ("Eve", "3", "jane_1_2_x.py"),
    "Jane_12_99_assignsubmission_file_x.py": ("Jane_12", "99", "x.py"),
    "jane_12345_report.html": None,
    "top/jane_1_2_03_lora.ipynb": None,
    "Eve*_13_assignsubmission_file_/Jane_12_assignsubmission_file_03_lora.ipynb": None,
    "Default group_assignsubmission_file/jane_1_2_03_lora.ipynb": None,
    "a\u202ebpyni_1_2_x.py": None,
    "(no student)_1_2_x.py": None,
    "[a-z]*_1_2_x.py": None,
}


@pytest.mark.parametrize(("path", "owner"), OWNERS.items())
def test_the_beginning_of_a_name_says_whose_it_is(path, owner):
    assert owner_of(path, ASSIGNMENT) == owner


NAMES = {
    "absolute": ("/tmp/evil.ipynb", "not inside the student's folder"),
    "backslash": ("..\\..\\jane_1_2_03_lora.ipynb", "a backslash"),
    "outside": ("../../jane_1_2_03_lora/03_lora.ipynb", "not inside the student's folder"),
    "new line": ("a\nnothing was left out.ipynb", "control characters"),
    "other case": (NOTEBOOK.upper(), "another file has this name"),
    "a folder": (f"{NOTEBOOK}/x", "File exists"),
    "time": ("timestamp.txt", "reserved"),
    "LZMA": (in_zip("x.py", compress_type=zipfile.ZIP_LZMA), "neither stored nor deflated"),
}


@pytest.mark.parametrize(("member", "reason"), NAMES.values(), ids=NAMES)
def test_a_bad_file_in_an_archive_needs_a_person_and_the_others_are_collected(
    extract, member, reason
):
    work = zipped((NOTEBOOK, MINE), (member, b"evil"), ("b.py", b"b"))
    found, notes = extract((f"{JANE}work.zip", work))
    assert found == {f"jane/{NOTEBOOK}": MINE, "jane/b.py": b"b"}
    assert [reason in line for line in notes.pop("jane")] == [True] and not notes


def changed(data, place, value):
    """Return a zip archive with another 4-byte number in its list of members."""
    place += data.index(b"PK\x01\x02")
    return data[:place] + struct.pack("<I", value) + data[place + 4 :]


ONE, BIG = zipped(("a.py", b"0" * 100)), zipped(("a.py", bytes(9_000_000)))
LISTED = b"PK\x01\x02" + bytes(42)
END = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 100_000 * 46, 0, 0)
ARCHIVES = {
    "damaged": (b"PK, but no archive", "not a zip file"),
    "false size": (changed(ONE, 24, 99), "can't be read"),
    "encrypted": (changed(ONE, 8, 1 | 8 << 16), "encrypted"),
    "no file": (zipped(("a/", b""), ("__MACOSX/._a.py", b"x")), "no file"),
    "a bomb": (BIG, "more than 300 MB"),
    "a bomb of a false size": (changed(BIG, 24, 100), "can't be read"),
    "bombs": (zipped(*((f"{n}.py", bytes(3_000_000)) for n in range(3))), "more than 300 MB"),
    "a long list": (LISTED * 100_000 + END, "more than 1,000 files"),
}


@pytest.mark.parametrize(("data", "reason"), ARCHIVES.values(), ids=ARCHIVES)
def test_a_bad_archive_needs_a_person_and_other_students_lose_nothing(
    extract, monkeypatch, data, reason
):
    monkeypatch.setattr(collected, "MAX_BYTES", 6_000_000)
    entries = [("eve_1_2_work.zip", data), (f"{JANE}{NOTEBOOK}", MINE), ("eve_1_2_b.py", b"b")]
    tracemalloc.start()
    try:
        found, notes = extract(*entries)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == {f"jane/{NOTEBOOK}": MINE, "eve/b.py": b"b"}
    assert [reason in line for line in notes.pop("eve")] == [True] and not notes
    assert peak < len(data) * 5 + 6_000_000


def test_ten_thousand_tiny_files_cost_neither_the_notebook_nor_another_student(extract):
    work = zipped(*((f".git/{n}", b"") for n in range(9_990)), (NOTEBOOK, b"e"))
    found, notes = extract(("eve_1_2_work.zip", work), (f"{JANE}{NOTEBOOK}", MINE))
    assert found.pop(f"jane/{NOTEBOOK}") == MINE
    assert found[f"eve/{NOTEBOOK}"] == b"e" and len(found) == MAX_FILES
    assert "than 1,000 files" in notes.pop("eve")[0] and not notes


def test_nothing_in_an_archive_of_a_student_can_name_another_student(extract):
    """An archive inside the class's archive replaced Jane's work and made up 50 students."""
    names = [f"{JANE}{NOTEBOOK}", f"{JANE}/{NOTEBOOK}", f"x\\{JANE}{NOTEBOOK}"]
    evil = [(name, b"evil") for name in [*names, *(f"made-up{n}_1_2_b.py" for n in range(50))]]
    work = zipped(*evil, ("more.zip", zipped(*evil)))
    found, notes = extract(
        (f"eve_1_3_..\\{JANE}{NOTEBOOK}", b"evil"),
        (f"x/../{JANE}x.py", b"evil"),
        ("eve_1_3_work.zip", work),
        (f"{JANE}{NOTEBOOK}", MINE),
    )
    assert {name.split("/")[0] for name in found} == {"jane", "eve"}
    assert found[f"jane/{NOTEBOOK}"] == MINE and notes.keys() == {"eve", NOBODY}
    assert ["backslash" in line for line in notes["eve"]] == [True, True]


def test_an_honest_archive_is_unpacked_without_the_folder_around_it(extract):
    big = os.urandom(3_000_000)
    inside = (("03/03_lora (1).ipynb", MINE), ("03/dätä/big.bin", big), ("03/", b""))
    junk = (("__MACOSX/03/._03_lora (1).ipynb", b"x"), ("03/.DS_Store", b"x"))
    work = zipped(*inside, *junk)
    # macOS doesn't set the flag of names in UTF-8.
    work = work.replace(b"\x00\x08\x08\x00", b"\x00\x00\x08\x00")
    folder = "Sam Doe_12_assignsubmission_file_/"
    files = {f"Sam Doe/{NOTEBOOK}": MINE, "Sam Doe/dätä/big.bin": big}
    assert extract((folder, b""), (f"{folder}My Work.ZIP", work)) == (files, {})


@pytest.mark.parametrize(
    ("names", "notebook"),
    [
        (["Copy of 03_lora.ipynb"], 0),
        (["03_lora (1).ipynb", "other.ipynb", "helper.py"], 0),
        (["03_LORA.IPYNB"], 0),
        (["03_lora.ipynb.txt"], 0),
        (["03_lora.json"], 0),
        (["03_lora (1).ipynb", NOTEBOOK], 1),
        (["03_lora (1).ipynb", "03_lora.ipynb.txt"], None),
        (["03_lora.txt", "03_lora.ipynb/x"], None),
        (["homework.ipynb", "sub/03_lora.ipynb"], None),
    ],
)
def test_the_notebook_gets_its_name_only_if_one_file_can_be_the_notebook(extract, names, notebook):
    found, notes = extract(*((f"{JANE}{name}", name.encode()) for name in names))
    expected = {name: name.encode() for name in names}
    if notebook is not None:
        expected[NOTEBOOK] = expected.pop(names[notebook])
    assert found == {f"jane/{name}": data for name, data in expected.items()} and not notes


def test_students_of_one_name_are_told_apart_by_their_numbers(extract):
    entries = [(f"jane_{n}_{n}7_{NOTEBOOK}", b"%d" % n) for n in (11, 22)]
    found, notes = extract(*entries, (f"sam_3_4_{NOTEBOOK}", b"3"), (f"sam_{ASSIGNMENT}.py", b"s"))
    folders = {"jane_11": b"11", "jane_22": b"22", "sam": b"3"}
    assert {name: found.pop(f"{name}/{NOTEBOOK}") for name in folders} == folders
    assert found == {f"sam/{ASSIGNMENT}.py": b"s"} and not notes


def test_a_file_beside_the_archive_replaces_the_one_in_it_but_not_in_silence(extract):
    (extract.beside / f"jane_{NOTEBOOK}").write_bytes(b"corrected")
    found, notes = extract((f"{JANE}{NOTEBOOK}", MINE))
    assert found == {f"jane/{NOTEBOOK}": b"corrected"}
    assert "another file has this name" in notes["jane"][0]


@pytest.mark.parametrize("name", ["old.zip", "broken.zip", "jane_03_lora.ZIP", "jane_1_2_work.zip"])
def test_a_second_archive_or_a_damaged_or_a_student_s_is_an_error(extract, name):
    data = zipped((f"sam_1_2_{NOTEBOOK}", b"?"))
    (extract.beside / name).write_bytes(data[:-9] if name == "broken.zip" else data)
    with pytest.raises(pytest.fail.Exception, match=r"the archive .*: (only one is|it can't)"):
        extract(*[(f"{JANE}{NOTEBOOK}", MINE)] * (name == "old.zip"))


def test_the_files_of_a_student_are_limited_together(extract, monkeypatch):
    monkeypatch.setattr(collected, "MAX_BYTES", 5)
    found, notes = extract(*((f"{JANE}{n:02}.py", b"123") for n in range(30)))
    assert found == {"jane/00.py": b"123"}
    assert len(notes["jane"]) == 20 and notes["jane"][-1] == "10 further files were left out"


def test_whatever_belongs_to_no_student_is_noted(extract):
    (extract.beside / f"sam_{NOTEBOOK}").symlink_to(__file__)
    (extract.beside / "folder").symlink_to(os.path.dirname(__file__))
    os.mkfifo(extract.beside / f"jo_{NOTEBOOK}")
    for name in ("class.tar.gz", "report.ipynb", "jane_04_nf4.ipynb", ".DS_Store"):
        (extract.beside / name).write_bytes(b"?")
    found, notes = extract((NOTEBOOK, b"?"), (f"{JANE}{NOTEBOOK}", MINE))
    assert found == {f"jane/{NOTEBOOK}": MINE}
    assert "it is a link" in notes.pop("sam")[0] and "not a regular file" in notes.pop("jo")[0]
    names = ("class.tar.gz", "folder", "jane_04_nf4.ipynb", "report.ipynb", NOTEBOOK)
    reason = "was left out: it is not a file whose name begins with a student's name"
    assert notes == {NOBODY: [f"'{name}' {reason}" for name in names]}
