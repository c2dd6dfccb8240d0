# tries: ids of 1 MB, empty ones, and the same one for every cell
# must: no point; graded or needs a person
def submission(release):
    import itertools

    from tests.hostile import corpus

    odd = itertools.cycle(["x" * 1_000_000, "", "same", "same", "a b/../c", "\u202e"])
    for cell in release["cells"]:
        cell["id"] = next(odd)
    return {"09_sums.ipynb": corpus.dump(release)}
