# tries: nothing: an answer uses a module that was imported only at home
# must: 6 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release, "sum-all")
    corpus.fill(notebook, "sum-all", "def add(numbers):\n    return np.sum(numbers)")
    return {"09_sums.ipynb": corpus.dump(notebook)}
