# tries: 150 MB beside the notebook, in one file, and a thousand small ones
# must: no point; graded or needs a person or ungradable
def submission(release):
    from tests.hostile import corpus

    small = {f"data/{n}/{n}.txt": b"x" * 1000 for n in range(1000)}
    return {"09_sums.ipynb": corpus.dump(release), "data.bin": bytes(150_000_000)} | small
