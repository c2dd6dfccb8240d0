# tries: nothing: an answer prints each step, 10 MB in all
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release, "sum-all")
    corpus.fill(notebook, "sum-all", ADD)
    return {"09_sums.ipynb": corpus.dump(notebook)}


ADD = """\
def add(numbers):
    if not numbers:
        raise ValueError("no numbers")
    total = 0
    for number in numbers:
        total += number
        for step in range(5_000):
            print("adding", number, "total is now", total)
    return total
"""
