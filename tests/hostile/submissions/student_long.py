# tries: a student whose name has 200 characters
# student: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
# must: at most 9 points; graded or ungradable
def submission(release):
    from tests.hostile import corpus

    return {"09_sums.ipynb": corpus.dump(corpus.right(release))}
