# tries: honest work by a student whose name is in letters of many kinds, and turns the line around
# student: Müller-李 ☃ \u202e
# must: at most 9 points; graded or ungradable
def submission(release):
    from tests.hostile import corpus

    return {"09_sums.ipynb": corpus.dump(corpus.right(release))}
