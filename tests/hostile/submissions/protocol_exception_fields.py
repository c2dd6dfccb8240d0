# tries: an exception with a name, a message, kinds and a place that were made to be displayed
# must: no point; graded
# %% cell after setup
from course_utils.exercise import checks

checks.place = lambda fault: ["<script>hostile-script()</script>", "x" * 100_000] * 1000


# %% answer sum-all
class __import__(Exception):  # noqa: A001
    def __str__(self):
        return "<script>hostile-script()</script>" * 1000


__import__.__name__ = "CheckFailed(BaseException): pass #"


def add(numbers):
    raise type("SystemExit", (ValueError, SystemExit), {})("<script>hostile-script()</script>")


# %% answer sum-squares
def squares(numbers):
    raise __builtins__.__dict__["KeyError"]("<script>hostile-script()</script>")
