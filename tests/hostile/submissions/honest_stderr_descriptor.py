# tries: nothing: a right answer that uses a library which writes to stderr itself
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release, "sum-all")
    corpus.fill(notebook, "sum-all", ADD)
    return {"09_sums.ipynb": corpus.dump(notebook)}


ADD = """\
import os

def add(numbers):
    os.write(2, b"a warning of a library in C\\n")
    if not numbers:
        raise ValueError("no numbers")
    return sum(numbers)
"""
