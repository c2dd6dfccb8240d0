# tries: nothing: plots inline, timings, shell commands and an installation that can't succeed
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release)
    corpus.add(notebook, "imports", "!pip install --quiet no-such-package-for-sums")
    corpus.add(notebook, "imports", "!ls -la\n%timeit -n 1 -r 1 sum([1, 2])\n%pwd")
    corpus.add(
        notebook, "imports", "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1])"
    )
    answer = corpus.find(notebook, "sum-squares")
    answer["source"] = f"%%time\n{answer['source']}"
    return {"09_sums.ipynb": corpus.dump(notebook)}
