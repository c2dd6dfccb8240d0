# tries: graded cells that the assignment doesn't have, worth 50 points each
# must: no point; graded
def submission(release):
    from tests.hostile import corpus

    for number in range(3):
        data = {"grade": True, "grade_id": f"bonus-{number}", "locked": True, "points": 50}
        data |= {"schema_version": 3, "solution": False, "task": False}
        corpus.add(release, "setup", "assert True", metadata={"nbgrader": data})
    return {"09_sums.ipynb": corpus.dump(release)}
