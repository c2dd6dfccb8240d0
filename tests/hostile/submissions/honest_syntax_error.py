# tries: nothing: one answer has a syntax error
# must: 6 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release, "sum-squares")
    corpus.fill(notebook, "sum-squares", "def squares(numbers)\n    return sum(numbers")
    return {"09_sums.ipynb": corpus.dump(notebook)}
