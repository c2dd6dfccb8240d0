# tries: nothing: Windows' line ends, and a mark at the beginning
# must: 9 points; graded
def submission(release):
    from tests.hostile import corpus

    notebook = corpus.right(release)
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].replace("\n", "\r\n")
    return {"09_sums.ipynb": b"\xef\xbb\xbf" + corpus.dump(notebook).replace(b"\n", b"\r\n")}
