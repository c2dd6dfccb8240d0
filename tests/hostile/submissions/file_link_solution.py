# tries: a notebook that is a link to the solution
# must: no point; ungradable; says link
def submission(release):
    from tests.hostile.corpus import Link

    return {"09_sums.ipynb": Link("../../../solutions/09_sums/09_sums.ipynb")}
