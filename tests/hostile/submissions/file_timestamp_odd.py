# tries: a timestamp.txt at the end of time, which has no equal in UTC
# must: no point; graded or needs a person or ungradable
def submission(release):
    from tests.hostile import corpus

    odd = b"9999-12-31 23:59:59.999999 -23:59"
    return {"09_sums.ipynb": corpus.dump(release), "timestamp.txt": odd}
