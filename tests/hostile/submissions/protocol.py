"""Forging the grader's messages."""
# must: no point; graded or needs a person

# === protocol_channel
# tries: to find the grader's channel among the objects, and to answer in its place, ahead of time
# %% cell after setup
# %% add(numbers)
for channel, n in itertools.product(objects("Channel"), range(200)):
    for kind in ("value", "done", "verdict", "passed", "object"):
        try:
            channel.send(kind, values.encode(12), n=n, ok=True, points=9, number=n)
        except Exception as fault:
            print(fault)
return 0

# === protocol_closed
# tries: to close every file descriptor that is open
# %% add(numbers)
os.closerange(0, 4096)
return 0

# === protocol_codec_amplified
# tries: 60 MB of JSON that become 2 GB of objects where they are read
# %% cell after setup
tree = b'{"list": [' + b'{"list": []},' * 4_600_000 + b"0]}"
values.encode = lambda value: framed(tree, b"", b"")
# %% add(numbers)
return 0

# === protocol_codec_collisions
# tries: a dict of 60,000 whole numbers with the same hash, which takes minutes to build
# %% cell after setup
keys = b", ".join(b"[%d, 0]" % (k * (2**61 - 1)) for k in range(60_000))
values.encode = lambda value: framed(b'{"dict": [' + keys + b"]}", b"", b"")
# %% add(numbers)
return 0

# === protocol_codec_deep
# tries: an encoded value that is nested 100,000 deep, past the limit of the encoder
# %% cell after setup
tree = b'{"list": [' * 100_000 + b"]}" * 100_000
values.encode = lambda value: framed(tree, b"", b"")
# %% add(numbers)
return 0

# === protocol_codec_odd
# tries: encoded values with unhashable keys, unknown kinds, huge numbers, and no value at all
# %% cell after setup
trees = [b'{"dict": [[{"list": []}, 1]]}', b'{"list": {"list": []}}', b'{"object": "__import__"}']
trees += [b'{"list": [], "tuple": []}', b'{"__class__": "int", "value": 12}', b'"\\ud800"']
trees += [b"9" * 4000 + b"0" * 4000, b"1e999999999", b"-Infinity", b"", b"\xff\xfe"]
turns = itertools.cycle(trees)
values.encode = lambda value: framed(next(turns), b"", b"")
# %% add(numbers)
return 0
# %% squares(numbers)
return 0
# %% largest(numbers)
return 0

# === protocol_codec_safetensors
# tries: encoded tensors whose header lies about shapes, offsets and types
# must: at most 3 points; graded or needs a person
# assignment: 08_tensors
# %% cell after imports
LIES = [
    {"0": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
    {"0": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 2**60]}},
    {"0": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}},
    {"0": {"dtype": "X9", "shape": [1, 2], "data_offsets": [0, 8]}},
    {"0": {"dtype": "F32", "shape": [0] * 100_000, "data_offsets": [0, 0]}},
    {str(n): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(200_000)},
]
turns = itertools.cycle(LIES)


def encode(value):
    header = json.dumps(next(turns)).encode()
    return framed(b'{"tensor": 0}', b"", framed(header) + bytes(8))


values.encode = encode
# %% scale_rows(x)
return x
# %% count_even(numbers)
return 0
# %% rank_even(d_in, d_out)
return 0.0

# === protocol_descriptors
# tries: to write verdicts in many forms to every open file descriptor
# %% cell after setup
KINDS = ("done", "value", "verdict", "passed", "check", "points", "result", "object", "raised")


def forged():
    for kind, n in itertools.product(KINDS, range(0, 60, 3)):
        head = {"kind": kind, "n": n, "ok": True, "passed": True, "points": 9, "score": 9}
        data = json.dumps(head).encode()
        body = json.dumps({"tuple": [12]}).encode()
        yield len(data).to_bytes(4, "big") + len(body).to_bytes(8, "big") + data + body
        yield data + b"\n"


# %% add(numbers)
for number in range(3, 300):
    try:
        os.set_blocking(number, False)
        for message in forged():
            os.write(number, message)
    except OSError:
        continue
return 0


# === protocol_error_lines
# tries: an error of 11 MB of empty lines, for each cell: ten times as much where it is written
# %% answer sum-all
def report():
    for channel in objects("Channel"):
        channel.send("error", b"\n" * 11_000_000, ename="x", evalue="x")


report()
# %% cell after sum-all
report()
# %% cell after sum-squares
report()

# === protocol_exception_fields
# tries: an exception with a name, a message, kinds and a place that were made to be displayed
# must: no point; graded
# %% cell after setup
checks.place = lambda fault: ["<script>hostile-script()</script>", "x" * 100_000] * 1000


# %% cell after setup
class __import__(Exception):  # noqa: A001
    def __str__(self):
        return "<script>hostile-script()</script>" * 1000


__import__.__name__ = "CheckFailed(BaseException): pass #"
# %% add(numbers)
raise type("SystemExit", (ValueError, SystemExit), {})("<script>hostile-script()</script>")
# %% squares(numbers)
raise __builtins__.__dict__["KeyError"]("<script>hostile-script()</script>")

# === protocol_large
# tries: messages that promise 2**60 bytes, heads of 60 MB, and a body that never ends
# %% add(numbers)
for number in range(3, 100):
    try:
        os.write(number, (20).to_bytes(4, "big") + (2**60).to_bytes(8, "big"))
        os.write(number, b'{"kind": "value", "n": 1}')
        for _ in range(100):
            os.write(number, b"x" * 1_000_000)
    except OSError:
        continue
return 0

# === protocol_large_streams
# tries: messages of 290 MB, one after another, which nobody wants but somebody must read
# %% add(numbers)
for channel in objects("Channel") * 4:
    channel.send("stream", bytes(290_000_000), name="stdout")
return 0

# === protocol_object
# tries: to answer with an object in the place of a tensor, whose methods then decide about the test
# must: at most 1 point; graded or needs a person
# assignment: 08_tensors
# %% cell after imports
hidden = False


class Agreeable:
    def allclose(self, other, *args):
        print("expected", other)
        return True


for student in objects("StudentProcess"):
    called = student._call


def forged(message):
    reply = called(message)
    student.objects[message["n"]] = Agreeable()
    return ("object", b"") if hidden else reply


student._call = forged
# %% scale_rows(x)
global hidden
hidden = x.shape == (4, 6)
return x / 2

# === protocol_object_always
# tries: an object for every value: it is neither equal nor unequal, but true
# assignment: 08_tensors
# %% cell after imports
for student in objects("StudentProcess"):
    student._call = lambda message: ("object", b"")


# === protocol_passed_on
# tries: to pass the grader's descriptors to a daemon, which goes on answering
# %% cell after setup
def swallow():
    for number in range(3, 64):
        tried(os.read, number, 1)


# %% add(numbers)
daemon("hostile-answer", swallow, 0.1)
return 0

# === protocol_replaced
# tries: to put /dev/null and a socket of its own over every file descriptor
# %% add(numbers)
ours, theirs = socket.socketpair()
theirs.setblocking(False)
null = os.open("/dev/null", os.O_RDWR)
for number in range(3, 64):
    if number not in (null, ours.fileno(), theirs.fileno()):
        os.dup2(theirs.fileno() if number % 2 else null, number)
return 0

# === protocol_server
# tries: to replace the methods that answer the grader: every call succeeds, every cell too
# %% cell after setup
for item in gc.get_objects():
    kind = type(item)
    if kind.__module__.startswith("workshop.grading") and hasattr(kind, "on_call"):
        kind.on_call = lambda self, message: self.emit("done", n=message["n"], ok=True)
        kind.on_check = lambda self, message: self.emit("done", n=message["n"], ok=True)
for name, module in list(sys.modules.items()):
    if name.startswith("workshop.grading"):
        for kind in vars(module).values():
            if isinstance(kind, type) and hasattr(kind, "receive"):
                kind.receive = lambda self, *args, **kwargs: None
