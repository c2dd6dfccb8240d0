# tries: nothing: helpers in a file of one's own, handed in beside the notebook
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release, "sum-all")
    corpus.fill(notebook, "sum-all", "from helpers import total as add")
    return {"09_sums.ipynb": corpus.dump(notebook), "helpers.py": HELPERS}


HELPERS = b"""\
def total(numbers):
    if not numbers:
        raise ValueError("no numbers")
    return sum(numbers)
"""
