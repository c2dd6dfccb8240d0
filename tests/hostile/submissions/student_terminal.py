# tries: a student whose name is codes for the terminal, and whose notebook can't be read
# student: \u001b]0;hostile\u0007\u001b[2Jx\u202e
# must: no point; ungradable
def submission(release):
    return {"09_sums.ipynb": b"[", "\x1b[2J.ipynb": b"["}
