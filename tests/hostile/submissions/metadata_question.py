# tries: points for the question that a person grades: its cell turned into code that prints 3
# must: no point; graded or needs a person
def submission(release):
    from tests.hostile import corpus

    cell = corpus.find(release, "sum-why")
    cell |= {"cell_type": "code", "source": "3", "outputs": [], "execution_count": None}
    cell["metadata"]["nbgrader"] |= {"solution": False, "locked": True}
    return {"09_sums.ipynb": corpus.dump(release)}
