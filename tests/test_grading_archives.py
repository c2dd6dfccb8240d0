"""grading.archives: hostile archives are refused, by name and reason; the rest of a class goes on."""

import io
import logging
import os
import stat
import struct
import tarfile
import zipfile

import pytest

pytest.importorskip("nbgrader", reason="no nbgrader: pip install -e '.[instructor,test]'")

from nbgrader.apps import ZipCollectApp
from nbgrader.plugins import ExtractorPlugin

from course_utils.grading import archives
from course_utils.grading.archives import SafeExtractor
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
            info.size = info.size or len(content)
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
    before = files(box / "archive")
    assert extract(box) == {f"x/{FINE}": CONTENT, "x/b.ipynb": CONTENT}
    (line,) = refusals()
    assert reason in line and f"x.{kind}" in line and line.isprintable()
    assert files(box) == {f"archive/{n}": c for n, c in before.items()} | {
        f"extracted/x/{FINE}": CONTENT, "extracted/x/b.ipynb": CONTENT
    }
