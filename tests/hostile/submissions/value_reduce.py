# tries: objects that run a command where somebody unpickles or deep-copies them
# must: no point; graded
# %% answer sum-all
import os


class Command:
    def __reduce__(self):
        return os.system, ("touch /tmp/escaped-reduce",)

    def __deepcopy__(self, memo):
        os.system("touch /tmp/escaped-copy")
        return 12


def add(numbers):
    return Command()


# %% answer sum-squares
def squares(numbers):
    return [Command(), {"key": Command()}]


# %% answer sum-largest
def largest(numbers):
    raise type("Fault", (ValueError,), {"__reduce__": Command.__reduce__})(Command())
