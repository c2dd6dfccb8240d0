# tries: an answer whose metadata says that it is graded as well, and ends in a number
# must: no point; graded or needs a person
def submission(release):
    from tests.hostile import corpus

    cell = corpus.find(release, "sum-all")
    cell["metadata"]["nbgrader"] |= {"grade": True, "points": 100}
    cell["source"] += "\n100"
    return {"09_sums.ipynb": corpus.dump(release)}
