# tries: nothing: 200 MB of output are stored in the file
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release)
    text = "step 1000 loss 0.123456\n" * 8_500_000
    stream = {"output_type": "stream", "name": "stdout", "text": text}
    corpus.add(notebook, "imports", "print('training')", outputs=[stream], execution_count=3)
    return {"09_sums.ipynb": corpus.dump(notebook)}
