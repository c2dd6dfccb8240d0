# tries: nothing: an answer and its tests were merged into one cell
# must: 9 points; graded or needs a person
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release)
    answer, first, second = (
        corpus.find(notebook, name) for name in ("sum-all", "sum-all-try", "sum-all-form")
    )
    answer["source"] = "\n\n".join(cell["source"] for cell in (answer, first, second))
    notebook["cells"].remove(first)
    notebook["cells"].remove(second)
    return {"09_sums.ipynb": corpus.dump(notebook)}
