# tries: to sleep for an hour in the fifth call alone
# must: at most 1 point; graded or needs a person
# %% answer sum-all
import time

calls = 0


def add(numbers):
    global calls
    calls += 1
    if calls == 5:
        time.sleep(3600)
    if not numbers:
        raise ValueError
    return 12
