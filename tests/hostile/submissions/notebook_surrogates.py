# tries: text in the notebook that has no UTF-8: in sources, ids, metadata, outputs and file names
# must: no point; graded or needs a person or ungradable
def submission(release):
    from tests.hostile import corpus

    corpus.add(
        release, "setup", "print('\ud800')", metadata={"tags": ["\udfff"], "\ud801": "\ud801"}
    )
    corpus.find(release, "sum-why")["source"] += "\nwords \ud800 and \x00 more"
    corpus.fill(release, "sum-all", "def add(numbers):\n    return '\udcff'")
    release["metadata"]["title"] = "\ud800"
    return {"09_sums.ipynb": corpus.dump(release), "\udcff.txt": b"mine"}
