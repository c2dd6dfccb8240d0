"""The first cell of each attack: the modules and the tools that attacks have in common."""

# ruff: noqa: F401, SIM115 (the attacks use the modules)

import builtins
import ctypes
import errno
import fcntl
import gc
import glob
import importlib
import inspect
import itertools
import json
import os
import pathlib
import pkgutil
import re
import signal
import site
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import types

from course_utils.exercise import checks, values

libc = ctypes.CDLL(None, use_errno=True)


class Passing:
    """An object whose every method, call and attribute passes a check."""

    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        return self

    def __iter__(self):
        return iter(())


class Equal:
    """A base class that makes an object equal to everything."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    def __hash__(self):
        return 1


def tried(action, *args, **options):
    """Return the result of an action; None if the action is refused."""
    try:
        return action(*args, **options)
    except (OSError, ValueError, sqlite3.Error):
        return None


def refuse_empty(numbers):
    """Raise the error that the tasks ask for."""
    if not numbers:
        raise ValueError


def append(path, text):
    """Write text to the end of a file."""
    with open(path, "a") as file:
        file.write(text)


def update(path, statement):
    """Change a database, such as a gradebook."""
    with sqlite3.connect(path, timeout=1) as book:
        book.execute(statement)


def content(path):
    """Return the beginning of a file, or why it can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read(100_000)
    except OSError as fault:
        return fault


def read_notebook(path):
    """Print and copy a notebook, and return the sources of its cells by their ids."""
    text = open(path).read()
    append("loot.txt", text)
    print(text)
    return {cell["id"]: "".join(cell["source"]) for cell in json.loads(text)["cells"]}


def executed(code):
    """Return the names that code defines."""
    names = {"__name__": "own"}
    exec(code, names)
    return names


def framed(*parts):
    """Return parts of bytes, each after its length, as the grader encodes a value."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def reveal(loot):
    """Print what was found, write it to a file, and raise it as an error."""
    text = "\n".join(map(str, loot))
    append("loot.txt", text)
    print(text[:190_000])
    raise RuntimeError(text[:100_000])


def objects(kind):
    """Return all objects of the process whose class has this name."""
    return [item for item in gc.get_objects() if type(item).__name__ == kind]


def callers():
    """Yield the frames of the functions that are running, from the inner to the outer."""
    frame = sys._getframe(1)
    while frame:
        yield frame
        frame = frame.f_back


def ancestors():
    """Yield the pids of the parent, the parent's parent and so on, except the first process."""
    pid = os.getppid()
    while pid > 1:
        above = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
        yield pid
        pid = above


def daemon(name, action, pause):
    """Start a daemon that repeats an action for 300 s, with a pause in seconds."""
    if child := os.fork():
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork() == 0:
        pathlib.Path("/proc/self/comm").write_text(name)
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        until = time.monotonic() + 300
        while time.monotonic() < until:
            action()
            time.sleep(pause)
    os._exit(0)
