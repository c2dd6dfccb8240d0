# tries: an empty file
# must: no point; ungradable
def submission(release):
    return {"09_sums.ipynb": b""}
