# tries: stored outputs that say that the tests have passed, and cells marked not to be run
# must: no point; graded
def submission(release):
    from tests.hostile import corpus

    for cell in release["cells"]:
        if cell["cell_type"] == "code":
            number = {"output_type": "execute_result", "execution_count": 1, "metadata": {}}
            cell["outputs"] = [number | {"data": {"text/plain": "3"}}]
            cell["execution_count"] = 1
            cell["metadata"] |= {"tags": ["skip-execution", "raises-exception", "remove-cell"]}
            cell["metadata"] |= {"editable": False, "frozen": True, "init_cell": True}
    return {"09_sums.ipynb": corpus.dump(release)}
