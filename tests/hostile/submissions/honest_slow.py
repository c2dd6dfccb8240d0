# tries: nothing: a right answer that takes a third of a second of the processor for each call
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release, "sum-all")
    corpus.fill(notebook, "sum-all", ADD)
    return {"09_sums.ipynb": corpus.dump(notebook)}


ADD = """\
import time

def add(numbers):
    if not numbers:
        raise ValueError("no numbers")
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    return sum(numbers)
"""
