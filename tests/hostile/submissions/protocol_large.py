# tries: messages that promise 2**60 bytes, heads of 60 MB, and a body that never ends
# must: no point; graded or needs a person
# %% answer sum-all
import os


def add(numbers):
    for number in range(3, 100):
        try:
            os.write(number, (20).to_bytes(4, "big") + (2**60).to_bytes(8, "big"))
            os.write(number, b'{"kind": "value", "n": 1}')
            for _ in range(100):
                os.write(number, b"x" * 1_000_000)
        except OSError:
            continue
    return 0
