# tries: a student whose name is a command
# student: student;touch escaped-name;$(touch escaped-name)`touch escaped-name`
# must: at most 9 points; graded or ungradable
def submission(release):
    from tests.hostile import corpus

    return {"09_sums.ipynb": corpus.dump(corpus.right(release))}
