# tries: os._exit in a cell of its own, before any test has run
# must: no point; graded or needs a person
# %% cell after setup
import os

os._exit(0)
