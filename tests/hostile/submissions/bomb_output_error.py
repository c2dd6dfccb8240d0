# tries: an exception whose message has 100 MB
# must: no point; graded or needs a person
# %% answer sum-all
def add(numbers):
    raise RuntimeError("x" * 100_000_000)


# %% answer sum-squares
def squares(numbers):
    raise type("X" * 10_000_000, (RuntimeError,), {})("\n" * 10_000_000)
