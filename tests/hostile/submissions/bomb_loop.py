# tries: a cell that never ends
# must: no point; graded or needs a person
# %% cell after setup
while True:
    pass
