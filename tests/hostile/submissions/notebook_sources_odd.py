# tries: sources that are numbers, lists of lists, or nothing
# must: no point; graded or needs a person or ungradable
def submission(release):
    import itertools

    from tests.hostile import corpus

    odd = itertools.cycle([42, [["x"]], None, {"a": 1}, [1, 2]])
    for cell in release["cells"]:
        cell["source"] = next(odd)
    return {"09_sums.ipynb": corpus.dump(release)}
