# tries: links beside the notebook: to the gradebook, to keys, to /, and to themselves
# must: no point; graded or needs a person or ungradable
def submission(release):
    from tests.hostile import corpus

    corpus.add(release, "imports", READ)
    return {
        "09_sums.ipynb": corpus.dump(release),
        "shadow.txt": corpus.Link("/etc/shadow"),
        "book.txt": corpus.Link("../../../gradebook.db"),
        "notes.txt": corpus.Link("/home/grader/notes.txt"),
        "solution.txt": corpus.Link("../../../solutions/09_sums/09_sums.ipynb"),
        "root": corpus.Link("/"),
        "self": corpus.Link("self"),
    }


READ = """\
import glob
for path in glob.glob("*.txt"):
    try:
        print(open(path, "rb").read()[:100_000])
    except OSError as fault:
        print(path, fault)
"""
