# tries: a notebook that ends in the middle
# must: no point; ungradable
def submission(release):
    from tests.hostile import corpus

    return {"09_sums.ipynb": corpus.dump(release)[:3000]}
