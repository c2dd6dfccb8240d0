# tries: cells that are numbers, texts and lists, and cells without a type or a source
# must: no point; graded or needs a person or ungradable
def submission(release):
    from tests.hostile import corpus

    release["cells"][3:3] = [42, "cell", [], None, {}, {"cell_type": "code"}, {"source": "1"}]
    return {"09_sums.ipynb": corpus.dump(release)}
