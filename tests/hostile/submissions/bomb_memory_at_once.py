# tries: one allocation of 10**14 bytes, and a list of 10**11 parts
# must: no point; graded
# %% answer sum-all
def add(numbers):
    return bytearray(10**14)


# %% answer sum-squares
def squares(numbers):
    return [0] * 10**11
