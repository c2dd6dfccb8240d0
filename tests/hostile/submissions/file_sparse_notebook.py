# tries: a notebook that is followed by 10 GB of nothing, which take no room on the disk
# must: no point; ungradable
def submission(release):
    from tests.hostile import corpus

    return {"09_sums.ipynb": corpus.Link(str(10**10), "sparse")}
