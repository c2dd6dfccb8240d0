# tries: nbgrader metadata of version 99
# must: no point; graded
def submission(release):
    from tests.hostile import corpus

    for cell in release["cells"]:
        if "nbgrader" in cell["metadata"]:
            cell["metadata"]["nbgrader"]["schema_version"] = 99
    return {"09_sums.ipynb": corpus.dump(release)}
