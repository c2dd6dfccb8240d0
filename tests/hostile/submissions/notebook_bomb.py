# tries: 50 MB of small lists, which take 2 GB where they are read
# must: no point; ungradable or graded
def submission(release):
    from tests.hostile import corpus

    wide = b'"metadata": {"wide": [' + b"[]," * 16_000_000 + b"[]], "
    return {"09_sums.ipynb": corpus.dump(release).replace(b'"metadata": {\n  "', wide + b'"', 1)}
