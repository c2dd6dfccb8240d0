# tries: nothing: await at the top of a cell, and answers that use threads and processes
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release, "sum-all", "sum-squares")
    corpus.add(notebook, "imports", "import asyncio\nawait asyncio.sleep(0)")
    corpus.fill(notebook, "sum-all", ADD)
    corpus.fill(notebook, "sum-squares", SQUARES)
    return {"09_sums.ipynb": corpus.dump(notebook)}


ADD = """\
from concurrent.futures import ThreadPoolExecutor

def add(numbers):
    if not numbers:
        raise ValueError("no numbers")
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(int, numbers))
"""
SQUARES = """\
import multiprocessing

def square(n):
    return n * n

def squares(numbers):
    if not numbers:
        raise ValueError("no numbers")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(square, numbers))
"""
