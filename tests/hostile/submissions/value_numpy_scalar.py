# tries: a subclass of a NumPy scalar whose item() is a string subclass, and object arrays
# must: no point; graded
# %% answer sum-all
import numpy


class Text(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


class Scalar(numpy.int64):
    def item(self):
        return Text("12")


def add(numbers):
    return Scalar(0)


# %% answer sum-largest
def largest(numbers):
    return numpy.array([Text("5")], dtype=object)[0]
