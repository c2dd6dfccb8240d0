# tries: cells that aren't a list
# must: no point; ungradable
def submission(release):
    from tests.hostile import corpus

    return {"09_sums.ipynb": corpus.dump(release | {"cells": {"0": release["cells"]}})}
