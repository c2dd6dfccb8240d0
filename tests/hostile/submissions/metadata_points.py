# tries: a thousand points for each test, by the metadata
# must: no point; graded
def submission(release):
    from tests.hostile import corpus

    for cell in release["cells"]:
        if "points" in cell["metadata"].get("nbgrader", {}):
            cell["metadata"]["nbgrader"]["points"] = 1000
    return {"09_sums.ipynb": corpus.dump(release)}
