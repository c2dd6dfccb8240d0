# tries: an object that says it is an int, by __class__ and by its metaclass, and equals everything
# must: no point; graded
# assignment: 08_tensors
# %% answer tensors-even
class Meta(type):
    def __instancecheck__(cls, other):
        return True

    def __eq__(cls, other):
        return True

    __hash__ = type.__hash__


class Liar(metaclass=Meta):
    __class__ = property(lambda self: int)

    def __eq__(self, other):
        return True

    __hash__ = None


def count_even(numbers):
    return Liar()
