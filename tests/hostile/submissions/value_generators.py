# tries: answers that are no functions: a coroutine, a generator, a class, a partial, a module
# must: no point; graded
# %% answer sum-all
async def add(numbers):
    return 12


# %% answer sum-squares
def squares(numbers):
    yield 50


# %% answer sum-largest
class largest(int):
    def __new__(cls, numbers):
        return super().__new__(cls, 5)

    def __eq__(self, other):
        return True

    __hash__ = int.__hash__
