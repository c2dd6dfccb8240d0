# tries: a timestamp.txt that isn't a time, but 10 MB and an expression
# must: no point; graded or needs a person
def submission(release):
    from tests.hostile import corpus

    odd = b"2999-01-01 00:00:00 UTC; __import__('os').system('touch /tmp/escaped-time')\n"
    return {"09_sums.ipynb": corpus.dump(release), "timestamp.txt": odd + b"x" * 10_000_000}
