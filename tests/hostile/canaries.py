"""What is planted to be stolen, what is opened to be reached, and what is looked for afterwards.

A canary is a random text. Where an output of a submission holds it, the submission has read what it
stands for: the gradebook, a hidden test, another student's work, a token in the environment. Two
listeners note who connects. Submissions that try to get out leave files named `escaped…` and
processes named `hostile-…`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
import stat
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

PLACES = (
    "hidden test",
    "solution",
    "submission",
    "gradebook",
    "environment",
    "home",
    "ssh",
    "jupyter",
    "shadow",
)
HOME = {"home": "notes.txt", "ssh": ".ssh/id_ed25519", "jupyter": ".jupyter/jupyter_config.json"}
TOKEN = "GITHUB_TOKEN"
PORT, ABSTRACT = 47113, "\0hostile-canary"  # known to the submissions that knock
MARKS = ("hostile-script", str(PORT), "Score: 12.0 / 12.0")  # in what forges or takes over a page
PROCESS, FILE = "hostile-", "escaped"  # how the names of what got out begin


def canaries() -> dict[str, str]:
    """A new text for each of the places."""
    return {place: f"canary-{secrets.token_hex(12)}" for place in PLACES}


def plant(home: Path, texts: dict[str, str]) -> None:
    """Put canaries into a home folder."""
    for place, name in HOME.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[place] + "\n", encoding="utf-8")


def seen(texts: dict[str, str], data: str | bytes) -> list[str]:
    """The places whose canaries stand in the data."""
    data = data.encode("utf-8", "replace") if isinstance(data, str) else data
    return [place for place, text in texts.items() if text.encode() in data]


def put_out(notebook: Path) -> str:
    """All outputs of a graded notebook as text; "" without one.

    Left out are the errors of the instructor's tests, which may show the line of the test.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return json.dumps([_own_outputs(cell) for cell in cells])
    return ""


def _own_outputs(cell: dict[str, Any]) -> list[Any]:
    test = cell["metadata"].get("nbgrader", {}).get("grade")
    return [o for o in cell.get("outputs", []) if not (test and o["output_type"] == "error")]


def files(folder: Path, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Digests of the files below a folder, by relative path; some of its entries left out.

    What is handed in deeper than a path may be, or is larger than 10 MB, is known by its size.
    """
    found, waiting = {}, [entry for entry in os.scandir(folder) if entry.name not in without]
    while waiting:
        entry = waiting.pop()
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                waiting += os.scandir(entry)
                continue
            about = entry.stat(follow_symlinks=False)
            small = stat.S_ISREG(about.st_mode) and about.st_size < 10**7
            data = Path(entry).read_bytes() if small else b""
            digest = hashlib.sha256(data).hexdigest()
            found[os.path.relpath(entry, folder)] = f"{about.st_mode} {about.st_size} {digest}"
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Names of files that are new, gone or different."""
    return sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))


def escaped(*folders: str) -> list[str]:
    """Files that were left where no submission should be able to write."""
    own = ("autograded", "submitted")
    return sorted(
        os.path.join(folder, name)
        for folder in folders
        for name in files(Path(folder), own)
        if os.path.basename(name).startswith(FILE) and not set(own) & set(name.split("/"))
    )


def survivors() -> list[str]:
    """Processes that a submission has started and that are still there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (folder / "comm").read_text().strip()
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and (name.startswith(PROCESS) or f" {PROCESS}" in line):
                found.append(f"{folder.name} {name}")
    return found


def active(page: str) -> list[str]:
    """What of a submission would act in this HTML page: its elements and attributes."""
    reader = _Reader()
    reader.feed(page)
    return sorted(reader.found)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag if tag in ("script", "style") else ""
        for name, value in attrs:
            acts = name.startswith("on") or name in ("style", "href", "src", "content", "action")
            if acts and any(mark in (value or "") for mark in (*MARKS, "position:fixed;top:0")):
                self.found.add(f"<{tag} {name}>")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside and any(mark in data for mark in MARKS):
            self.found.add(f"<{self._inside}>")


class Listeners:
    """Sockets on the loopback device and in the abstract namespace, which note who knocks."""

    def __init__(self) -> None:
        self.heard: set[str] = set()
        self._sockets = [
            self._open("TCP", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", PORT)),
            self._open("UDP", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", PORT)),
            self._open("abstract socket", socket.AF_UNIX, socket.SOCK_STREAM, ABSTRACT),
        ]

    def _open(self, name: str, family: int, kind: int, address: object) -> socket.socket:
        opened = socket.socket(family, kind)
        opened.bind(address)
        if kind == socket.SOCK_STREAM:
            opened.listen(16)
        threading.Thread(target=self._listen, args=(name, opened), daemon=True).start()
        return opened

    def _listen(self, name: str, opened: socket.socket) -> None:
        stream = opened.type == socket.SOCK_STREAM
        with contextlib.suppress(OSError):  # closed
            while True:
                if stream:
                    opened.accept()[0].close()
                elif not opened.recvfrom(100)[0]:
                    return  # closed
                self.heard.add(name)

    def close(self) -> None:
        """Stop listening."""
        for opened in self._sockets:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()
