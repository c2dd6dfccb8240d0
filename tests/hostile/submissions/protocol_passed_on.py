# tries: to pass the grader's descriptors to a daemon, which goes on answering
# must: no point; graded or needs a person
# %% answer sum-all
import os
import pathlib
import time


def add(numbers):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            pathlib.Path("/proc/self/comm").write_text("hostile-answer")
            until = time.monotonic() + 300
            while time.monotonic() < until:
                for number in range(3, 64):
                    try:
                        os.read(number, 1)
                    except OSError:
                        continue
                time.sleep(0.1)
        os._exit(0)
    return 0
