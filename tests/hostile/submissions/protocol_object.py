# tries: to answer with an object in the place of a value, whose methods then decide about the test
# must: at most 1 point; graded or needs a person
# assignment: 08_tensors
# %% cell after imports
import gc


class Agreeable:
    def allclose(self, other, *args):
        print("expected", other)
        return True

    equal = allclose


agreeable = Agreeable()
for item in gc.get_objects():
    if type(item).__name__ == "Student":
        student, called = item, type(item)._called


def forged(message):
    student.objects[message["n"]] = agreeable
    reply, body = called(student, message)
    return ("object", b"") if message["name"] == "scale_rows" and turn > 12 else (reply, body)


# %% cell after tensors-scale
turn = 0


def scale_rows(x):
    global turn
    turn += 1
    student._called = forged
    return x / x.abs().amax(dim=1, keepdim=True) * 0 + turn
