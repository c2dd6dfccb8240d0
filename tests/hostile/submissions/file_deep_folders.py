# tries: 1,500 folders, each in the other, beside the notebook
# must: no point; graded or needs a person or ungradable
def submission(release):
    from tests.hostile import corpus

    return {"09_sums.ipynb": corpus.dump(release), "a/" * 1500 + "b": b"deep"}
