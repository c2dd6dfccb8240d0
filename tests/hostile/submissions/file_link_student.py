# tries: a hard link to another student's notebook
# must: no point; ungradable or needs a person; says link
def submission(release):
    from tests.hostile.corpus import Link

    return {"09_sums.ipynb": Link("../../student01/09_sums/09_sums.ipynb", "hard")}
