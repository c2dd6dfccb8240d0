# tries: nothing: two test cells were deleted
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release)
    for name in ("sum-all-form", "sum-squares-values"):
        notebook["cells"].remove(corpus.find(notebook, name))
    return {"09_sums.ipynb": corpus.dump(notebook)}
