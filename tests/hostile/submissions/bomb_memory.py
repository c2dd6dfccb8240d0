# tries: lists and bytearrays until there is no memory
# must: no point; graded or needs a person
# %% answer sum-all
held = []


def add(numbers):
    for _ in range(120):
        held.append(bytearray(b"x" * 50_000_000))
