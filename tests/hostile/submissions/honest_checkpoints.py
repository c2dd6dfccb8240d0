# tries: nothing: Jupyter's folder of older copies was handed in as well
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    older = {".ipynb_checkpoints/09_sums-checkpoint.ipynb": corpus.dump(release)}
    return older | {"09_sums.ipynb": corpus.dump(corpus.right(release))}
