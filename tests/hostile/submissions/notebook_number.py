# tries: JSON that is no notebook: a number
# must: no point; ungradable
def submission(release):
    return {"09_sums.ipynb": b"42"}
