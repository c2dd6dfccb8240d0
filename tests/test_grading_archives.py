"""grading.archives: hostile archives are refused by name and reason; the class goes on."""

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


from nbgrader.plugins import ExtractorPlugin

from course_utils.grading.intake import archives
from course_utils.grading.intake.archives import SafeExtractor
from tests.classroom import ASSIGNMENT, course

FINE = "student01_03_lora.ipynb"
CONTENT = b"{}"


@pytest.fixture
def box(tmp_path):
    """Folders of an archive and of what is extracted, in one in which nothing else may appear."""
    for name in ("archive", "extracted"):
        (tmp_path / "box" / name).mkdir(parents=True)
    return tmp_path / "box"


@pytest.fixture
def refusals(caplog):
    """What was refused so far, one line each."""
    caplog.set_level(logging.ERROR)
    return lambda: [record.getMessage() for record in caplog.records]


def extract(box, plugin=SafeExtractor):
    extractor = plugin()
    extractor.log = logging.getLogger("collecting")
    extractor.extract(str(box / "archive"), str(box / "extracted"))
    return files(box / "extracted")


def files(folder):
    """Contents of the files below a folder, by relative path; no link may be among them."""
    found = {}
    for path in folder.rglob("*"):
        assert not path.is_symlink()
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def zipped(target, *members):
    """A zip archive of members: a name or a ZipInfo, and content."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return target


def tarred(target, *members):
    """A tar.gz archive of members: a name or a TarInfo, and content."""
    with tarfile.open(target, "w:gz") as archive:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
    return target


def in_zip(name, kind=stat.S_IFREG, **changes):
    """A zip's note of a file, of a kind that other programs may have written."""
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
    "out": ("../../evil.ipynb", "leads out of the folder"),
    "out, inside": ("a/../../evil.ipynb", "leads out of the folder"),
    "out, on Windows": ("a\\..\\..\\evil.ipynb", "leads out of the folder"),
    "new line": ("a\nRefused nothing.ipynb", "control characters"),
    "terminal": ("a\x1b[2Jb.ipynb", "control characters"),
    "reading direction": ("a\u202ebpyni.exe", "control characters"),
    "long": ("a" * 300 + ".ipynb", "too long"),
    "deep": ("a/" * 600 + "b.ipynb", "too long"),
    "none": (".", "no name"),
    "twice": (FINE, "another file of this name"),
    "other case": (FINE.upper(), "another file of this name"),
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
def test_a_bad_member_is_refused_and_the_others_are_not(box, refusals, kind, member, reason):
    if isinstance(member, str) and kind == "zip":
        member = in_zip(member)
    make = zipped if kind == "zip" else tarred
    make(box / "archive" / f"x.{kind}", (FINE, CONTENT), (member, CONTENT), ("b.ipynb", CONTENT))
    around = files(box.parent)
    fine = {f"x/{FINE}": CONTENT, "x/b.ipynb": CONTENT}
    assert extract(box) == fine
    (line,) = refusals()
    assert reason in line and f"x.{kind}" in line and line.isprintable()
    assert files(box.parent) == around | {
        f"box/extracted/{name}": CONTENT for name in ("x/" + FINE, "x/b.ipynb")
    }


def test_nbgraders_own_extractor_unpacks_bombs_and_gives_up(box):
    """What the tests here protect from: too much, and one bad archive for all."""
    zipped(box / "archive" / "a.zip", ("bomb", bytes(9_000_000)))
    assert len(extract(box, ExtractorPlugin)["a/bomb"]) == 9_000_000
    (box / "archive" / "b.zip").write_bytes(b"PK, but no archive")
    with pytest.raises(Exception, match="Not a recognized archive"):
        extract(box, ExtractorPlugin)


# --- archives that are refused as a whole ---------------------------------------------------------


def claiming(target, size):
    """A zip whose list of members says that its file is larger than it is."""
    zipped(target, ("a.ipynb", b"0" * 100))
    data = target.read_bytes()
    place = data.index(b"PK\x01\x02") + 24
    target.write_bytes(data[:place] + struct.pack("<I", size) + data[place + 4 :])


def long_list(target):
    """A zip that says its list of members is long."""
    zipped(target, (FINE, CONTENT))
    data = target.read_bytes()
    place = data.rindex(b"PK\x05\x06") + 12
    target.write_bytes(data[:place] + struct.pack("<I", archives.DIRECTORY + 1) + data[place + 4 :])


def encrypted(target):
    """A zip of a file that says it is encrypted."""
    zipped(target, ("a.ipynb", CONTENT))
    data = bytearray(target.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    target.write_bytes(data)


def huge_header(target):
    """A tar whose header for a long name is 50 MB long."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 50_000_000
    with gzip.open(target, "wb") as stream:
        stream.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(50):
            stream.write(bytes(1_000_000))


def many(target):
    zipped(target, *((f"{n}.ipynb", b"") for n in range(archives.MEMBERS + 1)))


def doll(target, depth):
    """Zips inside each other, a notebook in each."""
    content = CONTENT
    for level in range(depth):
        members = [(f"{level}.ipynb", CONTENT)] + ([("inner.zip", content)] if level else [])
        content = zipped(target, *members).read_bytes()


WHOLE = {
    "damaged": ("zip", lambda path: path.write_bytes(b"PK, but no archive"), "can't be read"),
    "empty": ("tar.gz", lambda path: path.write_bytes(b""), "can't be read"),
    "no tar": ("gz", lambda path: path.write_bytes(gzip.compress(b"text" * 999)), "can't be read"),
    "cut off": ("tar.gz", lambda path: cut(tarred(path, ("a", os.urandom(99_999)))), "can't be"),
    "many": ("zip", many, "too many members"),
    "long list": ("zip", long_list, "too many members"),
    "large": ("zip", lambda path: claiming(path, archives.TOTAL + 1), "too much comes out"),
    "tar bomb": ("tar.gz", lambda path: tarred(path, ("a", bytes(9_000_000))), "too much comes"),
    "long header": ("tar.gz", huge_header, "too much comes out"),
}
MEMBER = {
    "bomb": ("zip", lambda path: zipped(path, ("a", bytes(9_000_000))), "times as large"),
    "encrypted": ("zip", encrypted, "encrypted"),
    "false size": ("zip", lambda path: claiming(path, 99), "can't be read"),
}


def cut(path):
    path.write_bytes(path.read_bytes()[:-999])


@pytest.mark.parametrize(
    ("kind", "make", "reason"),
    [pytest.param(*bad, id=what) for what, bad in (WHOLE | MEMBER).items()],
)
def test_a_bad_archive_is_refused_and_the_class_is_not(box, refusals, kind, make, reason):
    make(box / "archive" / f"m.{kind}")
    zipped(box / "archive" / "z.zip", (FINE, CONTENT))
    (box / "archive" / FINE).write_bytes(CONTENT)
    assert extract(box) == {FINE: CONTENT, f"z/{FINE}": CONTENT}
    assert reason in refusals()[-1] and all(f"m.{kind}" in line for line in refusals())


def test_a_long_header_takes_no_memory(box):
    huge_header(box / "archive" / "x.tar.gz")
    tracemalloc.start()
    extract(box)
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()


def test_archives_inside_a_classs_are_unpacked_and_deeper_ones_refused(box, refusals):
    doll(box / "archive" / "class.zip", 4)
    found = extract(box)
    assert found == {"class/3.ipynb": CONTENT, "class/inner/2.ipynb": CONTENT}
    (line,) = refusals()
    assert "class/inner/inner.zip" in line and "inside each other" in line


def test_one_students_bomb_leaves_room_for_the_class(box, refusals, monkeypatch):
    monkeypatch.setattr(archives, "NESTED", 300_000)
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
    assert all("no regular file" in line for line in refusals()) and len(refusals()) == 2


def test_archives_of_one_name_get_folders_of_their_own(box):
    zipped(box / "archive" / "class.zip", ("a.ipynb", b"1"))
    tarred(box / "archive" / "class.tar.gz", ("a.ipynb", b"2"))
    (box / "archive" / "class").write_bytes(b"3")
    assert set(extract(box).values()) == {b"1", b"2", b"3"}


def test_honest_archives_come_out_whole(box, refusals):
    notebook = os.urandom(3_000_000)
    zipped(box / "archive" / "Ünï code.ZIP", ("a\\b/É_03_lora.ipynb", notebook), ("leer/", b""))
    tarred(box / "archive" / "t.tar.gz", (FINE, notebook), (in_tar("d", tarfile.DIRTYPE), b""))
    assert extract(box) == {"Ünï code/a/b/É_03_lora.ipynb": notebook, f"t/{FINE}": notebook}
    assert refusals() == []


# --- several files of one student -----------------------------------------------------------------


@pytest.fixture
def collecting(tmp_path, monkeypatch):
    """A course's folder for downloaded files, and what runs zip_collect on it."""
    folder = course(tmp_path / "course")
    shutil.copytree(folder / "solutions", folder / "exercises")
    archive = folder / "downloaded" / ASSIGNMENT / "archive"
    archive.mkdir(parents=True)
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))

    def run(*changes):
        """Exit status, what was logged, and the files that were collected."""
        command = [sys.executable, "-m", "nbgrader", "zip_collect", ASSIGNMENT, *changes]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        return done.returncode, done.stderr, files(folder / "submitted")

    return archive, run


def write(path, content, time):
    path.write_bytes(content)
    os.utime(path, (time, time))


STORED = f"student01/{ASSIGNMENT}/{ASSIGNMENT}.ipynb"
PLUGINS = ("ZipCollectApp.extractor_plugin", "ZipCollectApp.collector_plugin")
STOCK = [
    f"--{p}=nbgrader.plugins.{n}"
    for p, n in zip(PLUGINS, ("ExtractorPlugin", "FileNameCollectorPlugin"), strict=True)
]


def test_the_newest_of_a_students_files_is_collected(collecting):
    archive, collect = collecting
    write(archive / "student01_03_lora.ipynb", b"old", 1_700_000_000)
    write(archive / "student01_03_lora (1).ipynb", b"new", 1_700_009_999)
    write(archive / "student02_03_lora.ipynb", b"other", 1_600_000_000)
    newer = zipfile.ZipInfo("student02_Copy of 03_lora.ipynb", (2026, 9, 1, 12, 0, 0))
    zipped(archive / "late.zip", (newer, b"newest"))
    status, said, collected = collect()
    assert (status, said.count(" is newer")) == (0, 2)
    assert collected == {STORED: b"new", STORED.replace("1/", "2/", 1): b"newest"}


def test_nbgrader_itself_stops_at_two_files_of_a_student(collecting):
    archive, collect = collecting
    write(archive / "student01_03_lora.ipynb", b"old", 1_700_000_000)
    write(archive / "student01_03_lora (1).ipynb", b"new", 1_700_009_999)
    status, said, _ = collect(*STOCK)
    assert status != 0 and "Duplicate submission file" in said


def test_a_class_with_a_hostile_archive_is_collected(collecting):
    archive, collect = collecting
    link = in_tar("student02_03_lora.ipynb", tarfile.SYMTYPE, "/etc/hostname")
    tarred(archive / "evil.tar.gz", (link, b""))
    (archive / "student03.zip").write_bytes(b"no archive")
    write(archive / "student01_03_lora.ipynb", CONTENT, 1_700_000_000)
    status, said, collected = collect()
    assert (status, said.count("Refused "), collected) == (0, 2, {STORED: CONTENT})
