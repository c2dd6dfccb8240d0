# tries: nothing: the tasks were moved about
# must: 9 points; graded or needs a person
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release)
    cells = notebook["cells"]
    notebook["cells"] = cells[:3] + cells[13:18] + cells[8:13] + cells[3:8] + cells[18:]
    return {"09_sums.ipynb": corpus.dump(notebook)}
