# tries: cells of its own with the ids of tests, whose last line is a number: partial credit
# must: no point; graded or needs a person
def submission(release):
    import copy

    from tests.hostile import corpus

    for cell in list(release["cells"]):
        data = cell["metadata"].get("nbgrader", {})
        if data.get("grade") and cell["cell_type"] == "code":
            corpus.add(release, "sum-why", "100", metadata={"nbgrader": copy.deepcopy(data)})
    return {"09_sums.ipynb": corpus.dump(release)}
