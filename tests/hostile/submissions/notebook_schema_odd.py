# tries: nbgrader metadata of other types: lists, texts, nulls
# must: no point; graded or needs a person
def submission(release):
    import itertools

    from tests.hostile import corpus

    odd = itertools.cycle([[], "x", None, {"schema_version": "3"}, {"grade_id": ["x"]}, 1e999])
    for cell in release["cells"]:
        if "nbgrader" in cell["metadata"]:
            cell["metadata"]["nbgrader"] = next(odd)
    return {"09_sums.ipynb": corpus.dump(release)}
