# tries: encoded tensors whose header lies about shapes, offsets and types
# must: at most 3 points; graded or needs a person
# assignment: 08_tensors
# %% cell after imports
import json

from course_utils.exercise import values

LIES = [
    {"0": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
    {"0": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 2**60]}},
    {"0": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}},
    {"0": {"dtype": "X9", "shape": [1, 2], "data_offsets": [0, 8]}},
    {"0": {"dtype": "F32", "shape": [0] * 100_000, "data_offsets": [0, 0]}},
    {str(n): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(200_000)},
]
turn = 0


def encode(value):
    global turn
    turn += 1
    header = json.dumps(LIES[turn % len(LIES)]).encode()
    store = len(header).to_bytes(8, "little") + header + bytes(8)
    parts = b'{"tensor": 0}', b"", store
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


values.encode = encode


# %% answer tensors-scale
def scale_rows(x):
    return x


# %% answer tensors-even
def count_even(numbers):
    return 0


# %% answer tensors-rank
def rank_even(d_in, d_out):
    return 0.0
