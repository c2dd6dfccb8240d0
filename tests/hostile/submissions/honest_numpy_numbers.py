# tries: nothing: answers return NumPy's numbers
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release, "sum-all")
    corpus.fill(notebook, "sum-all", ADD)
    return {"09_sums.ipynb": corpus.dump(notebook)}


ADD = """\
import numpy as np

def add(numbers):
    if not numbers:
        raise ValueError("no numbers")
    return np.sum(numbers)
"""
