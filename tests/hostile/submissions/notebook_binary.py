# tries: a picture under the notebook's name
# must: no point; ungradable
def submission(release):
    return {"09_sums.ipynb": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 100}
