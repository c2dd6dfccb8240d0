# tries: honest work by a student whose name is in bytes that are no UTF-8
# student: M\udcfcller
# must: at most 9 points; graded or ungradable
def submission(release):
    from tests.hostile import corpus

    return {"09_sums.ipynb": corpus.dump(corpus.right(release))}
