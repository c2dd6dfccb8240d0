# tries: a student whose name is a statement in SQL, and a script
# student: x'); drop table grade; --<script>hostile-script()<\u001b[2J
# must: at most 9 points; graded or ungradable
def submission(release):
    from tests.hostile import corpus

    return {"09_sums.ipynb": corpus.dump(corpus.right(release))}
