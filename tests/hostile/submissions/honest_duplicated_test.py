# tries: nothing: a test cell was copied and its copy changed to see more
# must: 9 points; graded or needs a person
def submission(release):
    import copy

    from tests.hostile import corpus

    notebook = corpus.right(release)
    twin = copy.deepcopy(corpus.find(notebook, "sum-all-values"))
    twin |= {"id": "0a9b8c7d", "source": twin["source"] + "\nprint(add([1, 2, 3]))"}
    notebook["cells"].insert(9, twin)
    return {"09_sums.ipynb": corpus.dump(notebook)}
