# tries: nothing: right answers that warn and write to stderr
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release, "sum-all", "sum-squares")
    corpus.fill(notebook, "sum-all", ADD)
    corpus.fill(notebook, "sum-squares", SQUARES)
    return {"09_sums.ipynb": corpus.dump(notebook)}


ADD = """\
import sys
import warnings

def add(numbers):
    warnings.warn("this is slow", DeprecationWarning)
    print("adding", file=sys.stderr)
    if not numbers:
        raise ValueError("no numbers")
    return sum(numbers)
"""
SQUARES = """\
import logging
import subprocess

def squares(numbers):
    logging.getLogger("mine").warning("squaring")
    subprocess.run("echo squaring >&2", shell=True)
    if not numbers:
        raise ValueError("no numbers")
    return sum(n * n for n in numbers)
"""
