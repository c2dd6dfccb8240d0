# tries: memory in files without a name
# must: no point; graded or needs a person
# %% answer sum-all
import os

held = []


def add(numbers):
    for _ in range(6):
        number = os.memfd_create("hostile")
        held.append(number)
        for _ in range(100):
            os.write(number, b"x" * 10_000_000)
