# tries: the name of a kernel that isn't there
# must: no point; graded
def submission(release):
    from tests.hostile import corpus

    release["metadata"]["kernelspec"] = {"name": "hostile", "display_name": "x", "language": "R"}
    release["metadata"]["language_info"] = {"name": "R"}
    return {"09_sums.ipynb": corpus.dump(release)}
