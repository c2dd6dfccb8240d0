# tries: to print 200 MB
# must: no point; graded or needs a person
# %% cell after setup
for _ in range(200):
    print("x" * 1_000_000)
