# tries: a notebook that is a pipe, which nobody ever writes to
# must: no point; ungradable
def submission(release):
    from tests.hostile.corpus import Link

    return {"09_sums.ipynb": Link(kind="fifo")}
