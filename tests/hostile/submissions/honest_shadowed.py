# tries: nothing: variables named sum, check, numbers and random in cells of one's own
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release, "sum-all", "sum-squares")
    corpus.fill(notebook, "sum-all", ADD)
    corpus.fill(
        notebook, "sum-squares", ADD.replace("def add", "def squares").replace("+= n", "+= n * n")
    )
    corpus.add(notebook, "imports", "sum = 0\nfor n in [1, 2]:\n    sum += n\ncheck = random = sum")
    return {"09_sums.ipynb": corpus.dump(notebook)}


ADD = """\
def add(numbers):
    if len(numbers) == 0:
        raise ValueError("no numbers")
    total = 0
    for n in numbers:
        total += n
    return total
"""
