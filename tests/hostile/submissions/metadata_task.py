# tries: every cell made a task that a person grades
# must: no point; graded or needs a person
def submission(release):
    from tests.hostile import corpus

    for cell in release["cells"]:
        if data := cell["metadata"].get("nbgrader"):
            data |= {"task": True, "grade": False, "solution": False, "points": 100}
    return {"09_sums.ipynb": corpus.dump(release)}
