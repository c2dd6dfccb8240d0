# tries: a cell of 5 MB, parentheses nested deep, and a number of a million digits
# must: no point; graded or needs a person
def submission(release):
    from tests.hostile import corpus

    corpus.fill(release, "sum-all", f"def add(numbers):\n    return {'(' * 5000}12{')' * 5000}")
    corpus.fill(release, "sum-squares", f"def squares(numbers):\n    return {'9' * 1_000_000}")
    corpus.fill(
        release, "sum-largest", "def largest(numbers):\n    return " + "1 + " * 1_000_000 + "1"
    )
    return {"09_sums.ipynb": corpus.dump(release)}
