# tries: a notebook that is a link to the gradebook
# must: no point; ungradable; says link
def submission(release):
    from tests.hostile.corpus import Link

    return {"09_sums.ipynb": Link("../../../gradebook.db")}
