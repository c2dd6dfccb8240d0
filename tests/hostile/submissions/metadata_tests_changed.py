# tries: tests that print their points instead of checking, metadata untouched
# must: no point; graded
# %% test sum-all-form
1

# %% test sum-all-values
2

# %% test sum-squares-values
print("passed")

# %% test sum-largest-values
import course_utils.exercise.checks

course_utils.exercise.checks.check = None
