# tries: lists in lists in the metadata, 100,000 deep
# must: no point; ungradable or graded
def submission(release):
    from tests.hostile import corpus

    deep = b'"metadata": {"deep": ' + b"[" * 100_000 + b"]" * 100_000 + b", "
    return {"09_sums.ipynb": corpus.dump(release).replace(b'"metadata": {\n  "', deep + b'"', 1)}
