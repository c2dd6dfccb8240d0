# tries: nothing: an answer was deleted
# must: 6 points; graded or needs a person
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release)
    notebook["cells"].remove(corpus.find(notebook, "sum-squares"))
    return {"09_sums.ipynb": corpus.dump(notebook)}
