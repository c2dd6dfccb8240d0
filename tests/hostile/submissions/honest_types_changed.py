# tries: nothing: an answer's cell became markdown, the question's became raw text
# must: 9 points; graded or needs a person
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release)
    answer = corpus.find(notebook, "sum-largest")
    answer["cell_type"] = "markdown"
    del answer["outputs"], answer["execution_count"]
    corpus.find(notebook, "sum-why")["cell_type"] = "raw"
    return {"09_sums.ipynb": corpus.dump(notebook)}
