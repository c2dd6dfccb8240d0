# tries: an encoded value that is nested 100,000 deep, past the limit of the encoder
# must: no point; graded or needs a person
# %% cell after setup
from course_utils.exercise import values

tree = b'{"list": [' * 100_000 + b"]}" * 100_000
values.encode = lambda value: len(tree).to_bytes(8, "little") + tree + bytes(16)


# %% answer sum-all
def add(numbers):
    return 0
