"""A PostgreSQL server for the tests: it serves one socket in a folder of its own, and then ends."""

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
OWNER = "grader"  # the database's superuser, whoever runs the server
QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")  # nothing has to last
INSTALL = "there is no PostgreSQL server: install it (Debian, Ubuntu: `apt install postgresql`)"


@functools.cache
def program(name: str) -> str | None:
    """Path of one of the server's programs, such as initdb: Debian keeps them off the PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, places)])
    return shutil.which(name, path=path)


needed = pytest.mark.skipif(not (program("initdb") and program("pg_ctl")), reason=INSTALL)


class Postgres:
    """A running server. folder: of its socket."""

    def __init__(self, folder: Path):
        self.folder = folder

    def url(self, database: str) -> str:
        """What `c.CourseDirectory.db_url` is set to."""
        return f"{DRIVER}://{OWNER}@/{database}?host={self.folder}"

    def make(self, database: str, template: str = "template1") -> str:
        """Make a database, empty or a copy of another one; returns its URL."""
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def connect(self, database: str) -> Any:
        """A connection to a database, on which each statement counts at once."""
        import psycopg

        where = {"host": str(self.folder), "user": OWNER, "dbname": database}
        return psycopg.connect(**where, autocommit=True)


@contextlib.contextmanager
def server() -> Iterator[Postgres]:
    """A server without any database of ours, for as long as the context lasts."""
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # short: a socket's path has to be
    try:
        if user:
            os.chown(folder, user["user"], user["group"])
        data = str(folder / "data")
        encoding = ["--encoding=UTF8", "--locale=C", f"--username={OWNER}", "--auth=trust"]
        _run(user, "initdb", "--no-sync", *encoding, "--pgdata", data)
        options = [f"-c {setting}" for setting in QUICK]
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
    """As whom the server runs, for subprocess: it refuses to be root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _run(user: dict[str, Any], name: str, *arguments: str) -> None:
    """Run one of the server's programs; an error says what it printed."""
    with tempfile.TemporaryFile("w+") as said:  # no pipe: the server would keep it open
        command = [program(name), *arguments]
        done = subprocess.run(command, **user, cwd="/", stdout=said, stderr=said)
        said.seek(0)
        assert done.returncode == 0, said.read()
