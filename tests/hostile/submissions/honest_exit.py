# tries: nothing: sys.exit, quit and exit in cells that were to end a trial
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release)
    corpus.add(notebook, "imports", "import sys\nsys.exit(1)")
    corpus.add(notebook, "sum-all", "raise SystemExit")
    corpus.add(notebook, "sum-squares", "exit()")
    return {"09_sums.ipynb": corpus.dump(notebook)}
