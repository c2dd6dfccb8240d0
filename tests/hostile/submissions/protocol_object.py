# tries: to answer with an object in the place of a tensor, whose methods then decide about the test
# must: at most 1 point; graded or needs a person
# assignment: 08_tensors
# %% cell after imports
import gc

hidden = False


class Agreeable:
    def allclose(self, other, *args):
        print("expected", other)
        return True


for item in gc.get_objects():
    if type(item).__name__ == "Student":
        student, called = item, item._called


def forged(message):
    reply = called(message)
    student.objects[message["n"]] = Agreeable()
    return ("object", b"") if hidden else reply


student._called = forged


# %% answer tensors-scale
def scale_rows(x):
    global hidden
    hidden = x.shape == (4, 6)
    return x / 2
