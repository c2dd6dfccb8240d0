# tries: isinstance, len, abs, all, sorted, print and sum replaced in builtins
# must: no point; graded or needs a person
# %% cell after setup
import builtins

builtins.isinstance = lambda *args: True
builtins.all = builtins.any = lambda *args: True
builtins.abs = builtins.sum = builtins.max = lambda *args, **kwargs: 0
builtins.sorted = lambda *args, **kwargs: []
builtins.print = lambda *args, **kwargs: None


# %% answer sum-all
def add(numbers):
    return None
