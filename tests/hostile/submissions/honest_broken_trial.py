# tries: nothing: cells of one's own that fail, one of them because of a name used too early
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release)
    corpus.add(notebook, "imports", "add([1, 2, 3])")
    corpus.add(notebook, "sum-all", "1 / 0")
    corpus.add(notebook, "sum-all", "assert add([1]) == 2")
    return {"09_sums.ipynb": corpus.dump(notebook)}
