# tries: the same again: a second student whose processes keep all processors busy
# must: no point; graded or needs a person
# %% cell after setup
import os
import time

for _ in range(50):
    if os.fork() == 0:
        until = time.monotonic() + 100
        while time.monotonic() < until:
            pass
        os._exit(0)
time.sleep(6)


# %% answer sum-all
def add(numbers):
    time.sleep(2)
    return 0
