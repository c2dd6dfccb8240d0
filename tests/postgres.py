"""Start a PostgreSQL server for the tests, which is reachable only by a socket in its folder."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DRIVER = "postgresql+psycopg"
# The database's superuser, independent of the user who runs the server.
OWNER = "grader"
# These settings make the server faster. They risk data if the machine crashes.
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
INSTALL = "there is no PostgreSQL server: install it (Debian, Ubuntu: `apt install postgresql`)"


@functools.cache
def program(name: str) -> str | None:
    """Return the path of one of the server's programs, such as initdb.

    Debian installs these programs in a folder that the variable PATH does not contain.
    """
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    return shutil.which(name, path=path)


needed = pytest.mark.skipif(not (program("initdb") and program("pg_ctl")), reason=INSTALL)


class Postgres:
    """A running server.

    Args:
        folder: The folder of the server's socket.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def url(self, database: str) -> str:
        """Return the value of `c.CourseDirectory.db_url` for a database."""
        return f"{DRIVER}://{OWNER}@/{database}?host={self.folder}"

    def make(self, database: str, template: str = "template1") -> str:
        """Create a database, which is empty or a copy of another one, and return its URL."""
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def connect(self, database: str) -> Any:
        """Return a connection to a database, which commits each statement at once."""
        import psycopg

        where = {"host": str(self.folder), "user": OWNER, "dbname": database}
        return psycopg.connect(**where, autocommit=True)


@contextlib.contextmanager
def server() -> Iterator[Postgres]:
    """Start a server without databases, and stop it at the end of the context."""
    user = _user()
    # The path of a socket must be short, so the folder is not one of pytest's.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        if user:
            os.chown(folder, user["user"], user["group"])
        data = str(folder / "data")
        encoding = ["--encoding=UTF8", "--locale=C", f"--username={OWNER}", "--auth=trust"]
        _run(user, "initdb", "--no-sync", *encoding, "--pgdata", data)
        options = [f"-c {setting}" for setting in FAST]
        options += ["-c listen_addresses=''", f"-c unix_socket_directories='{folder}'"]
        log = str(folder / "log")
        _run(user, "pg_ctl", "start", "-w", "-D", data, "-l", log, "-o", " ".join(options))
        try:
            yield Postgres(folder)
        finally:
            _run(user, "pg_ctl", "stop", "-D", data, "-m", "immediate")
    finally:
        shutil.rmtree(folder)


def _user() -> dict[str, Any]:
    """Return subprocess's options for the user who runs the server, which can't be root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _run(user: dict[str, Any], name: str, *arguments: str) -> None:
    """Run one of the server's programs. If it fails, the error shows the program's output."""
    # The output goes to a file because the server would keep a pipe open.
    with tempfile.TemporaryFile("w+") as output:
        command = [program(name), *arguments]
        done = subprocess.run(command, **user, cwd="/", stdout=output, stderr=output)
        output.seek(0)
        assert done.returncode == 0, output.read()
