# tries: settings of Jupyter and nbgrader in its folder, which the grader would run
# must: no point; graded or needs a person or ungradable
def submission(release):
    from tests.hostile import corpus

    run = b"open('/tmp/escaped-settings', 'w').write('the grader ran this')\n"
    names = [
        "nbgrader_config.py",
        "jupyter_config.py",
        "jupyter_nbconvert_config.py",
        "conftest.py",
    ]
    names += [".ipython/profile_default/startup/00.py", "templates/feedback.html.j2"]
    return {"09_sums.ipynb": corpus.dump(release)} | dict.fromkeys(names, run)
