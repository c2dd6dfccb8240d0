# tries: to take a little less than the limit in every cell and every call
# must: no point; graded or needs a person
# %% cell after setup
import time

time.sleep(8)


# %% answer sum-all
def add(numbers):
    time.sleep(8)
    raise ValueError


# %% answer sum-squares
def squares(numbers):
    time.sleep(8)
    raise ValueError


# %% answer sum-largest
def largest(numbers):
    time.sleep(8)
    raise ValueError
