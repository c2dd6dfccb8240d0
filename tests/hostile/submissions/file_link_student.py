# tries: a hard link to another student's notebook, which must not be refused for it
# must: at most 9 points; graded or needs a person or ungradable
def submission(release):
    from tests.hostile.corpus import Link

    return {"09_sums.ipynb": Link("../../student01/09_sums/09_sums.ipynb", "hard")}
