# tries: ids of the easy test on the hard ones, and of the tests on the answers
# must: at most 1 point; graded or needs a person
def submission(release):
    from tests.hostile import corpus

    corpus.fill(release, "sum-all", "def add(numbers):\n    raise ValueError")
    names = {
        "sum-all-values": "sum-all-form",
        "sum-all-form": "sum-all-values",
        "sum-squares": "sum-all",
    }
    for cell in release["cells"]:
        data = cell["metadata"].get("nbgrader", {})
        if data.get("grade_id") in names:
            cell["id"] = data["grade_id"] = names[data["grade_id"]]
    return {"09_sums.ipynb": corpus.dump(release)}
