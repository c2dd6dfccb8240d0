# tries: modules in its folder in the place of course_utils, random, math and json
# must: no point; graded or needs a person or ungradable
def submission(release):
    from tests.hostile import corpus

    passing = (
        b"class Passing:\n    def __getattr__(self, name):\n        return lambda *a, **k: self\n"
        b"def check(*args, **kwargs):\n    return Passing()\n"
    )
    names = [
        "random.py",
        "course_utils/__init__.py",
        "course_utils/exercise/checks.py",
        "sitecustomize.py",
    ]
    names += ["usercustomize.py", "nbgrader_config.py", "jupyter_config.py", "ipykernel_config.py"]
    return {"09_sums.ipynb": corpus.dump(release)} | dict.fromkeys(names, passing)
