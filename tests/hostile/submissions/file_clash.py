# tries: files beside the notebook with the names of the grader's own, and of folders in its way
# must: no point; graded or needs a person or ungradable
def submission(release):
    from tests.hostile import corpus

    names = [
        "work/x",
        "record.json",
        "09_sums/09_sums.ipynb",
        "autograded/x",
        ".part",
        "file/" * 60 + "x",
    ]
    return {"09_sums.ipynb": corpus.dump(release)} | {name: b"mine" for name in names}
