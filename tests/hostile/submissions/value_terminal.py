# tries: terminal codes in what it prints, raises and returns: titles, cursor moves, links, bells
# must: no point; graded
# %% answer sum-all
CODES = "\x1b]0;hostile\x07\x1b[2J\x1b[1;1H\x1b]8;;http://127.0.0.1\x07100 points"
CODES += "\x1b[8m\r\b\x9b31m\u202e"


def add(numbers):
    print(CODES)
    return CODES


# %% answer sum-squares
def squares(numbers):
    raise RuntimeError(CODES)
