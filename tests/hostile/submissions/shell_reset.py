# tries: the namespace, the shell's instance and the main module replaced in the middle
# must: no point; graded or needs a person
# %% cell after setup
import sys
import types

from IPython.core.interactiveshell import InteractiveShell

shell = get_ipython()


# %% answer sum-all
def add(numbers):
    sys.modules["__main__"] = types.ModuleType("__main__")
    InteractiveShell.clear_instance()
    shell.user_ns.clear()
    shell.user_global_ns.clear()
    return 0
