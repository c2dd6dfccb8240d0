# tries: tests that are unlocked and whose source is replaced by nothing
# must: no point; graded
def submission(release):
    from tests.hostile import corpus

    for cell in release["cells"]:
        data = cell["metadata"].get("nbgrader", {})
        if data.get("grade") and cell["cell_type"] == "code":
            data |= {"locked": False, "solution": True}
            cell["source"] = "pass"
    return {"09_sums.ipynb": corpus.dump(release)}
