"""Exhausting time, memory, disk or output."""
# must: no point; graded or needs a person

# === bomb_backtracking
# tries: a regular expression that takes 2**60 steps
# %% add(numbers)
return len(re.findall(r"(a+)+$", "a" * 60 + "b"))

# === bomb_disk
# tries: to fill the disk, in every folder that can be written
# %% add(numbers)
for folder in (".", "/tmp", "/var/tmp", "/dev/shm", "/run", os.path.expanduser("~")):
    for _ in range(300):
        tried(append, f"{folder}/filler", "x" * 10_000_000)
return 0

# === bomb_disk_sparse
# tries: a file that says it has 10**13 bytes, left for whoever copies the folder
# %% add(numbers)
with open("sparse.bin", "wb") as file:
    file.truncate(10**13)
return 0

# === bomb_fifth_call
# tries: to sleep for an hour in the fifth call alone
# must: at most 1 point; graded or needs a person
# %% cell after setup
calls = itertools.count(1)
# %% add(numbers)
if next(calls) == 5:
    time.sleep(3600)
refuse_empty(numbers)
return 12

# === bomb_files_open
# tries: to open files and sockets until no more can be opened
# %% cell after setup
held = []
# %% add(numbers)
while True:
    held.append(socket.socketpair())
    held.append(os.pipe())
    held.append(os.open("/dev/null", os.O_RDONLY))

# === bomb_forks
# tries: a fork bomb
# %% cell after setup
until = time.monotonic() + 200
while time.monotonic() < until:
    try:
        os.fork()
    except OSError:
        pass

# === bomb_forks_stubborn
# tries: a fork bomb of sessions of their own, each of which starts again when one is killed
# %% add(numbers)
for _ in range(50):
    daemon("hostile-fork", lambda: tried(os.fork), 0.01)
return 0

# === bomb_inodes
# tries: a million empty files and folders, nested deep
# %% add(numbers)
for number in range(1_000_000):
    os.mkdir(f"folder{number}")
    open(f"folder{number}/file", "w").close()
    if number % 1000 == 0:
        os.chdir(f"folder{number}")
return 0

# === bomb_loop
# tries: a cell that never ends
# %% cell after setup
while True:
    pass

# === bomb_loop_answer
# tries: an answer that never ends
# %% add(numbers)
while True:
    pass

# === bomb_loop_in_c
# tries: a loop in C that no interrupt reaches, holding the interpreter's lock
# %% add(numbers)
return sum(range(10**12))

# === bomb_loop_stubborn
# tries: a loop that ignores SIGINT and SIGTERM and catches KeyboardInterrupt
# %% cell after setup
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
# %% add(numbers)
while True:
    try:
        time.sleep(1)
    except BaseException as fault:
        print(type(fault))

# === bomb_memory
# tries: lists and bytearrays until there is no memory
# %% cell after setup
held = []
# %% add(numbers)
for _ in range(120):
    held.append(bytearray(b"x" * 50_000_000))

# === bomb_memory_at_once
# tries: one allocation of 10**14 bytes, and a list of 10**11 parts
# must: no point; graded
# %% add(numbers)
return bytearray(10**14)
# %% squares(numbers)
return [0] * 10**11

# === bomb_memory_many
# tries: many processes with little memory each, much together
# %% add(numbers)
for _ in range(60):
    if os.fork() == 0:
        held = bytearray(b"x" * 100_000_000)
        time.sleep(200)
        os._exit(len(held) % 2)
time.sleep(200)

# === bomb_memory_memfd
# tries: memory in files without a name
# %% cell after setup
held = [os.memfd_create("hostile") for _ in range(6)]
# %% add(numbers)
for number in held * 100:
    os.write(number, b"x" * 10_000_000)

# === bomb_memory_shared
# tries: shared memory, filled by many processes of which each has little of its own
# %% cell after setup
import mmap

# %% add(numbers)
for _ in range(30):
    shared = mmap.mmap(-1, 200_000_000)
    if os.fork() == 0:
        for place in range(0, 200_000_000, 4096):
            shared[place] = 1
        time.sleep(200)
        os._exit(0)
time.sleep(200)

# === bomb_output
# tries: to print 200 MB
# %% cell after setup
for _ in range(200):
    print("x" * 1_000_000)

# === bomb_output_cells
# tries: 150 cells of its own, each of which displays 8 MB: 1.2 GB together
# must: no point; graded or needs a person or ungradable
# %% notebook
show = """\
import base64
from IPython.display import display
display({"image/png": base64.b64encode(bytes(7_900_000)).decode()}, raw=True)
"""
for _ in range(150):
    add(notebook, "setup", show)

# === bomb_output_display
# tries: 100,000 displays, of pictures, pages and forms that nobody knows
# %% cell after setup
from IPython.display import HTML, display

for number in range(100_000):
    display(HTML("<p>" + "x" * 1000))
    display({f"application/x-{number}": "x", "image/png": "AAAA" * 100}, raw=True)

# === bomb_output_endless
# tries: to print without end, in small pieces, to both streams and to their descriptors
# %% add(numbers)
while True:
    print("x" * 1000)
    print("y", file=sys.stderr)
    os.write(1, b"z" * 1000)
    os.write(2, b"z" * 1000)

# === bomb_output_error
# tries: an exception whose message has 100 MB
# %% add(numbers)
raise RuntimeError("x" * 100_000_000)
# %% squares(numbers)
raise type("X" * 10_000_000, (RuntimeError,), {})("\n" * 10_000_000)

# === bomb_processors
# tries: to keep all processors busy with many processes, so that others run out of time
# %% cell after setup
for _ in range(50):
    daemon("hostile-busy", lambda: None, 0)
# %% add(numbers)
time.sleep(2)
return 0
# %% squares(numbers)
time.sleep(2)
return 0

# === bomb_processors_b
# tries: the same again: a second student whose processes keep all processors busy
# %% cell after setup
for _ in range(50):
    daemon("hostile-busy", lambda: None, 0)
time.sleep(6)
# %% add(numbers)
time.sleep(2)
return 0

# === bomb_shm
# tries: to fill /dev/shm, where other programs of the machine share memory
# %% add(numbers)
for _ in range(200):
    append("/dev/shm/escaped-shm", "x" * 10_000_000)

# === bomb_slow_everywhere
# tries: to take a little less than the limit in every cell and every call
# %% cell after setup
time.sleep(8)
# %% add(numbers)
time.sleep(8)
raise ValueError
# %% squares(numbers)
time.sleep(8)
raise ValueError
# %% largest(numbers)
time.sleep(8)
raise ValueError

# === bomb_source
# tries: a cell of 5 MB, parentheses nested deep, and a number of a million digits
# %% notebook
fill(notebook, "sum-all", f"def add(numbers):\n    return {'(' * 5000}12{')' * 5000}")
fill(notebook, "sum-squares", f"def squares(numbers):\n    return {'9' * 1_000_000}")
fill(notebook, "sum-largest", "def largest(numbers):\n    return " + "1 + " * 1_000_000 + "1")

# === bomb_threads
# tries: threads until no more can be started
# %% add(numbers)
while True:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()


# === bomb_timer
# tries: a thread that waits until the tests run, and then takes the interpreter's lock for ever
# %% cell after setup
def later():
    time.sleep(1)
    ctypes.PyDLL(None).pause()


threading.Thread(target=later, daemon=True).start()
# %% add(numbers)
time.sleep(2)
return 0
