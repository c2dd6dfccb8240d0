# tries: text that has no UTF-8: lone surrogates in values, messages, names and output
# must: no point; graded
# %% answer sum-all
def add(numbers):
    print("\ud800\udfff\x00\ufffe")
    return "\ud800" * 10


# %% answer sum-squares
def squares(numbers):
    raise type("\udcff", (ValueError,), {})("\ud800 \x00 \udcff")
