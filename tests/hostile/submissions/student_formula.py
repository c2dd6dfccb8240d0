# tries: a student whose name is a formula for the spreadsheet that opens the CSV
# student: =cmd|' calc'!A0,+1,@SUM(1)
# must: at most 9 points; graded or ungradable
def submission(release):
    from tests.hostile import corpus

    return {"09_sums.ipynb": corpus.dump(corpus.right(release))}
