# tries: the same at the top of the notebook, so that they come before the real tests
# must: no point; graded or needs a person
def submission(release):
    import copy

    from tests.hostile import corpus

    for cell in list(release["cells"]):
        data = cell["metadata"].get("nbgrader", {})
        if data.get("grade") and cell["cell_type"] == "code":
            corpus.add(release, "setup", "3", metadata={"nbgrader": copy.deepcopy(data)})
            data |= {"grade": False, "grade_id": data["grade_id"] + "-old", "points": 0}
    return {"09_sums.ipynb": corpus.dump(release)}
