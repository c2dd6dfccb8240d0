# tries: nothing: an answer was copied to try something, the copy has the same metadata
# must: 9 points; graded or needs a person
def submission(release):
    import copy

    from tests.hostile import corpus

    notebook = corpus.right(release)
    twin = copy.deepcopy(corpus.find(notebook, "sum-all"))
    notebook["cells"].insert(5, twin | {"id": "d1c5b6b7"})
    return {"09_sums.ipynb": corpus.dump(notebook)}
