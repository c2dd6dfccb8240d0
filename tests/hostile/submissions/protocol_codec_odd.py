# tries: encoded values with unhashable keys, unknown kinds, huge numbers, and no value at all
# must: no point; graded or needs a person
# %% cell after setup
from course_utils.exercise import values

TREES = [
    b'{"dict": [[{"list": []}, 1]]}',
    b'{"list": {"list": []}}',
    b'{"object": "__import__"}',
    b'{"list": [], "tuple": []}',
    b"9" * 4000 + b"0" * 4000,
    b"1e999999999",
    b"-Infinity",
    b'"\\ud800"',
    b"",
    b"\xff\xfe",
    b'{"__class__": "int", "value": 12}',
]
turn = 0


def encode(value):
    global turn
    turn += 1
    tree = TREES[turn % len(TREES)]
    return len(tree).to_bytes(8, "little") + tree + bytes(16)


values.encode = encode


# %% answer sum-all
def add(numbers):
    return 0


# %% answer sum-squares
def squares(numbers):
    return 0


# %% answer sum-largest
def largest(numbers):
    return 0
