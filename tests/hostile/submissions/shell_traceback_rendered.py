# tries: CheckFailed shows itself as nothing, and its traceback renders as a number of points
# must: no point; graded
# %% cell after setup
from course_utils.exercise import checks

checks.CheckFailed._render_traceback_ = lambda self: []
checks.CheckFailed.__str__ = lambda self: "1"
