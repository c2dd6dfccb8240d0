# tries: a folder in the place of the notebook
# must: no point; ungradable
def submission(release):
    return {"09_sums.ipynb/09_sums.ipynb": b"{}"}
