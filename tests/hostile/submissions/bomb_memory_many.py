# tries: many processes with little memory each, much together
# must: no point; graded or needs a person
# %% answer sum-all
import os
import time


def add(numbers):
    for _ in range(60):
        if os.fork() == 0:
            held = bytearray(b"x" * 100_000_000)
            time.sleep(200)
            os._exit(len(held) % 2)
    time.sleep(200)
