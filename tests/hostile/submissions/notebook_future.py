# tries: a notebook of format 5
# must: no point; ungradable or graded or needs a person
def submission(release):
    from tests.hostile import corpus

    return {"09_sums.ipynb": corpus.dump(release | {"nbformat": 5, "nbformat_minor": 99})}
