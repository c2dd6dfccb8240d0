# tries: 150 cells of its own, each of which displays 8 MB: 1.2 GB together
# must: no point; graded or needs a person or ungradable
def submission(release):
    from tests.hostile import corpus

    for _ in range(150):
        corpus.add(release, "setup", SHOW)
    return {"09_sums.ipynb": corpus.dump(release)}


SHOW = """\
import base64
from IPython.display import display
display({"image/png": base64.b64encode(bytes(7_900_000)).decode()}, raw=True)
"""
