# tries: nothing: a cell asks for input, which nobody gives
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release)
    corpus.add(notebook, "imports", 'name = input("Your name? ")')
    return {"09_sums.ipynb": corpus.dump(notebook)}
