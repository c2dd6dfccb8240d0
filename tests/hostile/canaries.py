"""Detect what a submission has read, changed, started or reached outside of its sandbox.

A canary is a random text that is put into a secret place: the gradebook, a hidden test, another
student's work, a token in the environment. If an output of a submission contains a canary, the
submission has read that place. Listeners record connections. Submissions that try to escape leave
files named `escaped…` and processes named `hostile-…`.
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
from pathlib import Path
from typing import Any

import psutil
from bs4 import BeautifulSoup

HOME = {"home": "notes.txt", "ssh": ".ssh/id_ed25519", "jupyter": ".jupyter/jupyter_config.json"}
PLACES = ("hidden test", "solution", "submission", "gradebook", "environment", "shadow", *HOME)
TOKEN = "GITHUB_TOKEN"
# The addresses to which submissions try to connect.
PORT, ABSTRACT = 47113, "\0hostile-canary"
# Texts in the parts of a submission that try to forge a page or to run in the page.
MARKS = ("hostile-script", str(PORT), "Score: 12.0 / 12.0")
# The text before an input of a hidden test, which no page for students may show.
HIDDEN = "hidden-input ["
# The attributes, besides event handlers, by which an element affects its page.
ACTIVE = ("style", "href", "src", "content", "action")
# The beginnings of the names of processes and files that have escaped.
PROCESS, FILE = "hostile-", "escaped"


def canaries() -> dict[str, str]:
    """Return a new canary for each place."""
    return {place: f"canary-{secrets.token_hex(12)}" for place in PLACES}


def plant(home: Path, texts: dict[str, str]) -> None:
    """Write the canaries of a home folder to files."""
    for place, name in HOME.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[place] + "\n", encoding="utf-8")


def seen(texts: dict[str, str], data: str | bytes) -> list[str]:
    """Return the places whose canaries the data contain."""
    data = data.encode("utf-8", "replace") if isinstance(data, str) else data
    return [place for place, text in texts.items() if text.encode() in data]


def outputs(notebook: Path) -> str:
    """Return all outputs of a graded notebook as text; "" if the notebook can't be read.

    Errors of the instructor's tests are left out, because they may show a line of the test.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return json.dumps([_own_outputs(cell) for cell in cells])
    return ""


def _own_outputs(cell: dict[str, Any]) -> list[Any]:
    test = cell["metadata"].get("nbgrader", {}).get("grade")
    return [o for o in cell.get("outputs", []) if not (test and o["output_type"] == "error")]


def files(folder: Path, ignored: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the mode, size and hash of each file below a folder, by relative path.

    Entries of the folder whose names are in `ignored` are left out. Files that are larger than
    10 MB are not hashed.
    """
    digests, waiting = {}, [entry for entry in os.scandir(folder) if entry.name not in ignored]
    while waiting:
        entry = waiting.pop()
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                waiting += os.scandir(entry)
                continue
            status = entry.stat(follow_symlinks=False)
            small = stat.S_ISREG(status.st_mode) and status.st_size < 10**7
            data = Path(entry).read_bytes() if small else b""
            digest = hashlib.sha256(data).hexdigest()
            path = os.path.relpath(entry, folder)
            digests[path] = f"{status.st_mode} {status.st_size} {digest}"
    return digests


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the paths of files that are new, missing or different."""
    return sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))


def escaped(*folders: str) -> list[str]:
    """Return the files that submissions have left in folders of this machine."""
    own = ("autograded", "submitted")
    return sorted(
        os.path.join(folder, name)
        for folder in folders
        for name in files(Path(folder), own)
        if os.path.basename(name).startswith(FILE) and not set(own) & set(name.split("/"))
    )


def survivors() -> list[str]:
    """Return the pids and names of processes that a submission has started and that still run."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "status"]):
        words = [process.info["name"] or "", *(process.info["cmdline"] or [])[1:]]
        running = process.info["status"] != psutil.STATUS_ZOMBIE
        if running and any(word.startswith(PROCESS) for word in words):
            found.append(f"{process.pid} {words[0]}")
    return found


def active(page: str) -> list[str]:
    """Return the elements and attributes of a page by which a submission would affect the page."""
    found = {HIDDEN} if HIDDEN in page else set()
    for element in BeautifulSoup(page, "html.parser").find_all(True):
        if element.name in ("script", "style") and any(m in element.get_text() for m in MARKS):
            found.add(f"<{element.name}>")
        for name, value in element.attrs.items():
            acts = name.startswith("on") or name in ACTIVE
            if acts and any(mark in str(value) for mark in (*MARKS, "position:fixed;top:0")):
                found.add(f"<{element.name} {name}>")
    return sorted(found)


class Listeners:
    """Sockets on the loopback device and in the abstract namespace that record connections."""

    def __init__(self) -> None:
        self.reached: set[str] = set()
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
        # After `close`, `accept` raises an OSError, and `recvfrom` returns no data.
        with contextlib.suppress(OSError):
            while True:
                if stream:
                    opened.accept()[0].close()
                elif not opened.recvfrom(100)[0]:
                    return
                self.reached.add(name)

    def close(self) -> None:
        """Stop listening."""
        for opened in self._sockets:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()
