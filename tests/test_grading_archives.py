"""Test intake.archives: bad archives and members are refused, and all others are unpacked."""

import gzip
import io
import logging
import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile

import pytest

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")

from course_utils.grading.intake import archives
from course_utils.grading.intake.archives import SafeExtractor
from tests.classroom import ASSIGNMENT, course

FINE = "student01_03_lora.ipynb"
CONTENT = b"{}"


@pytest.fixture
def box(tmp_path):
    """A folder with the folder of the archives and the folder of the unpacked files."""
    for name in ("archive", "extracted"):
        (tmp_path / "box" / name).mkdir(parents=True)
    return tmp_path / "box"


@pytest.fixture
def refusals(caplog):
    """A function that returns the logged refusals."""
    caplog.set_level(logging.ERROR)
    return lambda: [record.getMessage() for record in caplog.records]


def extract(box):
    extractor = SafeExtractor()
    extractor.log = logging.getLogger("collecting")
    extractor.extract(str(box / "archive"), str(box / "extracted"))
    return files(box / "extracted")


def files(folder):
    """Return the contents of the files in a folder by relative path, and fail if one is a link."""
    paths = list(folder.rglob("*"))
    assert not any(path.is_symlink() for path in paths)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths if p.is_file()}


def zipped(target, *members):
    """Write a zip archive of members; a member is a name or a ZipInfo, and the content."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return target


def tarred(target, *members):
    """Write a tar.gz archive of members; a member is a name or a TarInfo, and the content."""
    with tarfile.open(target, "w:gz") as archive:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
    return target


def in_zip(name, kind=stat.S_IFREG, **changes):
    """Return a ZipInfo of any file type, as other programs may have written it."""
    info = zipfile.ZipInfo("x")
    info.filename, info.external_attr = name, (kind | 0o644) << 16
    for key, value in changes.items():
        setattr(info, key, value)
    return info


def in_tar(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


NAMES = {
    "absolute": ("/tmp/evil.ipynb", "absolute path"),
    "drive": ("C:evil.ipynb", "absolute path"),
    "share": ("\\\\host\\share\\evil.ipynb", "absolute path"),
    "outside": ("../../evil.ipynb", "leads out of the folder"),
    "outside from inside": ("a/../../evil.ipynb", "leads out of the folder"),
    "outside on Windows": ("a\\..\\..\\evil.ipynb", "leads out of the folder"),
    "new line": ("a\nRefused nothing.ipynb", "control characters"),
    "escape sequence": ("a\x1b[2Jb.ipynb", "control characters"),
    "writing direction": ("a\u202ebpyni.exe", "control characters"),
    "long": ("a" * 300 + ".ipynb", "too long"),
    "deep": ("a/" * 600 + "b.ipynb", "too long"),
    "none": (".", "no name"),
    "twice": (FINE, "same name"),
    "other case": (FINE.upper(), "same name"),
    "file as folder": (f"{FINE}/b.ipynb", "can't be read"),
}
KINDS = {
    "link": (in_zip("l.ipynb", stat.S_IFLNK), "a link or a device"),
    "device": (in_zip("d.ipynb", stat.S_IFCHR), "a link or a device"),
    "pipe": (in_zip("p.ipynb", stat.S_IFIFO), "a link or a device"),
}
TAR_KINDS = {
    "link": (in_tar("l.ipynb", tarfile.SYMTYPE, "/etc/passwd"), "a link or a device"),
    "hard link": (in_tar("h.ipynb", tarfile.LNKTYPE, FINE), "a link or a device"),
    "device": (in_tar("d.ipynb", tarfile.CHRTYPE), "a link or a device"),
    "pipe": (in_tar("p.ipynb", tarfile.FIFOTYPE), "a link or a device"),
}
BAD = [("zip", *bad) for bad in (NAMES | KINDS).items()]
BAD += [("tar.gz", *bad) for bad in (NAMES | TAR_KINDS).items()]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("kind", "member", "reason"),
    [pytest.param(kind, *bad, id=f"{kind}, {what}") for kind, what, bad in BAD],
)
def test_a_bad_member_is_refused_and_the_others_are_unpacked(box, refusals, kind, member, reason):
    if isinstance(member, str) and kind == "zip":
        member = in_zip(member)
    make = zipped if kind == "zip" else tarred
    make(box / "archive" / f"x.{kind}", (FINE, CONTENT), (member, CONTENT), ("b.ipynb", CONTENT))
    before = files(box.parent)
    good = {f"x/{FINE}": CONTENT, "x/b.ipynb": CONTENT}
    assert extract(box) == good
    (line,) = refusals()
    assert reason in line and f"x.{kind}" in line and line.isprintable()
    assert files(box.parent) == before | {f"box/extracted/{name}": CONTENT for name in good}


# --- archives that are refused as a whole ---------------------------------------------------------


def wrong_size(target, size):
    """Write a zip archive whose list of members states a wrong size."""
    zipped(target, ("a.ipynb", b"0" * 100))
    data = target.read_bytes()
    place = data.index(b"PK\x01\x02") + 24
    target.write_bytes(data[:place] + struct.pack("<I", size) + data[place + 4 :])


def long_list(target):
    """Write a zip archive that states a very long list of members."""
    zipped(target, (FINE, CONTENT))
    data = target.read_bytes()
    place = data.rindex(b"PK\x05\x06") + 12
    target.write_bytes(
        data[:place] + struct.pack("<I", archives.MAX_DIRECTORY + 1) + data[place + 4 :]
    )


def encrypted(target):
    """Write a zip archive whose member has the flag of an encrypted file."""
    zipped(target, ("a.ipynb", CONTENT))
    data = bytearray(target.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    target.write_bytes(data)


def huge_header(target):
    """Write a tar archive whose header for a long name is 50 MB long."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 50_000_000
    with gzip.open(target, "wb") as stream:
        stream.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(50):
            stream.write(bytes(1_000_000))


def many(target):
    zipped(target, *((f"{n}.ipynb", b"") for n in range(archives.MAX_MEMBERS + 1)))


def nested(target, depth):
    """Write zip archives inside each other, each with a notebook."""
    content = CONTENT
    for level in range(depth):
        members = [(f"{level}.ipynb", CONTENT)] + ([("inner.zip", content)] if level else [])
        content = zipped(target, *members).read_bytes()


WHOLE = {
    "damaged": ("zip", lambda path: path.write_bytes(b"PK, but no archive"), "can't be read"),
    "empty": ("tar.gz", lambda path: path.write_bytes(b""), "can't be read"),
    "no tar": ("gz", lambda path: path.write_bytes(gzip.compress(b"text" * 999)), "can't be read"),
    "cut off": ("tar.gz", lambda path: cut(tarred(path, ("a", os.urandom(99_999)))), "can't be"),
    "many": ("zip", many, "contains more than 10,000 files"),
    "long list": ("zip", long_list, "its list of files is longer than 10 MB"),
    "large": (
        "zip",
        lambda path: wrong_size(path, archives.MAX_TOTAL + 1),
        "would exceed the maximum size",
    ),
    "tar bomb": ("tar.gz", lambda path: tarred(path, ("a", bytes(9_000_000))), "would exceed"),
    "long header": ("tar.gz", huge_header, "would exceed the maximum size"),
}
MEMBER = {
    "bomb": ("zip", lambda path: zipped(path, ("a", bytes(9_000_000))), "times its size"),
    "encrypted": ("zip", encrypted, "encrypted"),
    "false size": ("zip", lambda path: wrong_size(path, 99), "can't be read"),
}


def cut(path):
    path.write_bytes(path.read_bytes()[:-999])


@pytest.mark.parametrize(
    ("kind", "make", "reason"),
    [pytest.param(*bad, id=what) for what, bad in (WHOLE | MEMBER).items()],
)
def test_a_bad_archive_is_refused_and_all_other_files_are_unpacked(
    box, refusals, kind, make, reason
):
    make(box / "archive" / f"m.{kind}")
    zipped(box / "archive" / "z.zip", (FINE, CONTENT))
    (box / "archive" / FINE).write_bytes(CONTENT)
    assert extract(box) == {FINE: CONTENT, f"z/{FINE}": CONTENT}
    assert reason in refusals()[-1] and all(f"m.{kind}" in line for line in refusals())


def test_a_long_header_is_not_read_into_memory(box):
    huge_header(box / "archive" / "x.tar.gz")
    tracemalloc.start()
    try:
        extract(box)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30_000_000


def test_an_archive_in_an_archive_is_unpacked_and_a_deeper_one_refused(box, refusals):
    nested(box / "archive" / "class.zip", 4)
    assert extract(box) == {"class/3.ipynb": CONTENT, "class/inner/2.ipynb": CONTENT}
    (line,) = refusals()
    assert "class/inner/inner.zip" in line and "only 2 levels of archives" in line


def test_archives_that_exceed_their_quota_leave_the_quota_of_others(box, refusals, monkeypatch):
    monkeypatch.setattr(archives, "MAX_NESTED", 300_000)
    bomb = zipped(box / "bomb.zip", *((f"{n}.txt", os.urandom(90_000)) for n in range(4)))
    fine = zipped(box / "fine.zip", (FINE, os.urandom(90_000)))
    zipped(
        box / "archive" / "class.zip",
        *((f"{n}.zip", (fine if n % 2 else bomb).read_bytes()) for n in range(8)),
    )
    assert sorted(extract(box)) == [f"class/{n}/{FINE}" for n in (1, 3, 5, 7)]
    assert len(refusals()) == 4


def test_only_regular_files_are_copied(box, refusals, tmp_path):
    (tmp_path / "secret.ipynb").write_text("secret")
    (box / "archive" / "student02_03_lora.ipynb").symlink_to(tmp_path / "secret.ipynb")
    (box / "archive" / "student03").symlink_to(tmp_path)
    os.mkfifo(box / "archive" / "student04_03_lora.ipynb")
    (box / "archive" / FINE).write_bytes(CONTENT)
    assert extract(box) == {FINE: CONTENT}
    assert all("not a regular file" in line for line in refusals()) and len(refusals()) == 2


def test_archives_with_the_same_name_get_different_folders(box):
    zipped(box / "archive" / "class.zip", ("a.ipynb", b"1"))
    tarred(box / "archive" / "class.tar.gz", ("a.ipynb", b"2"))
    (box / "archive" / "class").write_bytes(b"3")
    assert set(extract(box).values()) == {b"1", b"2", b"3"}


def test_good_archives_are_unpacked_completely(box, refusals):
    notebook = os.urandom(3_000_000)
    zipped(box / "archive" / "Ünï code.ZIP", ("a\\b/É_03_lora.ipynb", notebook), ("empty/", b""))
    tarred(box / "archive" / "t.tar.gz", (FINE, notebook), (in_tar("d", tarfile.DIRTYPE), b""))
    assert extract(box) == {"Ünï code/a/b/É_03_lora.ipynb": notebook, f"t/{FINE}": notebook}
    assert refusals() == []


# --- nbgrader's command ---------------------------------------------------------------------------


def write(path, content, time):
    path.write_bytes(content)
    os.utime(path, (time, time))


def test_zip_collect_collects_the_newest_files_and_refuses_hostile_archives(tmp_path, monkeypatch):
    folder = course(tmp_path / "course")
    shutil.copytree(folder / "solutions", folder / "exercises")
    archive = folder / "downloaded" / ASSIGNMENT / "archive"
    archive.mkdir(parents=True)
    write(archive / "student01_03_lora.ipynb", b"old", 1_700_000_000)
    write(archive / "student01_03_lora (1).ipynb", b"new", 1_700_009_999)
    write(archive / "student02_03_lora.ipynb", b"old", 1_600_000_000)
    write(archive / "student05_03_lora.IPYNB", b"capitals", 1_600_000_000)
    newer = zipfile.ZipInfo("student02_Copy of 03_lora.ipynb", (2026, 9, 1, 12, 0, 0))
    zipped(archive / "late.zip", (newer, b"new, from an archive"))
    link = in_tar("student03_03_lora.ipynb", tarfile.SYMTYPE, "/etc/hostname")
    tarred(archive / "evil.tar.gz", (link, b""))
    (archive / "student04.zip").write_bytes(b"no archive")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    command = [sys.executable, "-m", "nbgrader", "zip_collect", ASSIGNMENT]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count(" is newer")) == (0, 2), done.stderr
    assert done.stderr.count("Refused ") == 2
    assert files(folder / "submitted") == {
        f"student01/{ASSIGNMENT}/{ASSIGNMENT}.ipynb": b"new",
        f"student02/{ASSIGNMENT}/{ASSIGNMENT}.ipynb": b"new, from an archive",
        f"student05/{ASSIGNMENT}/{ASSIGNMENT}.IPYNB": b"capitals",
    }
