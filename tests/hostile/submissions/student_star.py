# tries: a student whose name is a star, which stands for everybody
# student: *
# must: at most 9 points; graded or ungradable
def submission(release):
    from tests.hostile import corpus

    return {"09_sums.ipynb": corpus.dump(release)}
