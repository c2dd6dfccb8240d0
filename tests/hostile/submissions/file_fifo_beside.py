# tries: a pipe beside the notebook, for whoever copies the folder
# must: no point; graded or needs a person or ungradable
def submission(release):
    from tests.hostile import corpus

    return {"09_sums.ipynb": corpus.dump(release), "data.txt": corpus.Link(kind="fifo")}
