# tries: the tests replaced by markdown, their metadata kept
# must: no point; graded
def submission(release):
    from tests.hostile import corpus

    for cell in release["cells"]:
        if cell["metadata"].get("nbgrader", {}).get("grade") and cell["cell_type"] == "code":
            cell["cell_type"] = "markdown"
            del cell["outputs"], cell["execution_count"]
    return {"09_sums.ipynb": corpus.dump(release)}
