# tries: files of 10 GB beside the notebook, which take no room on the disk
# must: no point; graded or needs a person or ungradable
def submission(release):
    from tests.hostile import corpus

    large = {f"data{n}.bin": corpus.Link(str(10**10), "sparse") for n in range(8)}
    return {"09_sums.ipynb": corpus.dump(release)} | large
