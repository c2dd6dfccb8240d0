"""Neighbours in the same server."""
# must: no point; graded

# === neighbour_descriptors
# tries: to find a descriptor, a socket or a pipe that it has in common with its neighbours
# must: no point; graded or needs a person
# %% cell after setup
links = {tried(os.readlink, path) for path in glob.glob("/proc/self/fd/*")} - {None, "/dev/null"}
# %% cell before sum-all-form
print("learned:", *(link for link in links if not link.startswith("socket:")))

# === neighbour_leases
# tries: to hold up every neighbour who opens a file of the course, by a lease on it
# %% cell after setup
leases = []


def lease(path):
    with open(path, "rb") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        leases.append(os.dup(file.fileno()))


for place in ("/course/course_utils", *sys.path):
    paths = (os.path.join(top, name) for top, _, names in os.walk(place) for name in names)
    for path in itertools.islice(paths, 400):
        tried(lease, path)
# %% cell before sum-all-form
print("learned:", f"how to hold up {len(leases)} files" if leases else "")

# === neighbour_locks
# tries: to lock every file that its neighbours read as well, and every device, in all three ways
# %% cell after setup
LOCKS = [(fcntl.flock, fcntl.LOCK_EX), (fcntl.lockf, fcntl.LOCK_EX), (fcntl.lockf, fcntl.LOCK_SH)]
held = []


def lock(path, mode, function, operation):
    descriptor = os.open(path, mode | os.O_NONBLOCK)
    try:
        function(descriptor, operation | fcntl.LOCK_NB)
        held.append(descriptor)
    except OSError:
        os.close(descriptor)


for place in (*sys.path, os.path.dirname(os.__file__), "/etc", "/dev", "/usr/share"):
    paths = (os.path.join(top, name) for top, _, names in os.walk(place) for name in names[:3])
    for path in itertools.islice(paths, 300):
        if not path.startswith(("/tmp", "/dev/shm", "/dev/pts")):
            for mode, way in itertools.product((os.O_RDWR, os.O_RDONLY), LOCKS):
                tried(lock, path, mode, *way)
# %% cell before sum-all-form
print(len(held), "locks are held; learned:")

# === neighbour_shared
# tries: shared memory, semaphores and message queues of every kind, and sockets' abstract names
# %% cell after setup
found = [line for line in open("/proc/self/maps") if re.match(r"\S+ .w.s", line)]
for file in ("shm", "sem", "msg"):
    found += open(f"/proc/sysvipc/{file}").read().splitlines()[1:]
found += os.listdir("/dev/shm")
found += [line for line in open("/proc/net/unix") if "@" in line]
mine = [libc.shmget(key, 4096, 0o1666) for key in range(0x514C, 0x515C)]  # IPC_CREAT
mine += [libc.semget(key, 1, 0o1666) for key in range(0x514C, 0x515C)]
for name in ("qlora", "psm_qlora", "sem.qlora"):
    append(f"/dev/shm/{name}", "a neighbour's")
for name in ("\0qlora", "\0/tmp/qlora", "\0"):
    mine.append(socket.socket(socket.AF_UNIX))
    mine[-1].bind(name)
    mine[-1].listen()
# %% cell before sum-all-form
print("learned:", *found)

# === neighbour_signals
# tries: to use up the signals that may wait for all processes of its user
# %% cell after setup
pids = []
for _ in range(12):
    if (pid := os.fork()) == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMAX])
        time.sleep(20)
        os._exit(0)
    pids.append(pid)
time.sleep(0.2)
end = time.time() + 2
while time.time() < end:
    for pid in pids:
        tried(os.kill, pid, signal.SIGRTMAX)
# %% cell before sum-all-form
print("learned:")

# === neighbour_terminals
# tries: to write into every terminal that a neighbour opens, to read from it, and to stop it
# %% cell after setup
import termios

seen = open("/tmp/seen", "w")


def search():
    for name in set(os.listdir("/dev/pts")) - {"ptmx"}:
        with open(f"/dev/pts/{name}", "r+b", 0) as terminal:
            print("terminal", name, file=seen, flush=True)
            termios.tcflow(terminal, termios.TCOOFF)
            terminal.write(b"written by a neighbour")


daemon("hostile-search", lambda: tried(search), 0.001)
# %% cell before sum-all-form
print("learned:", open("/tmp/seen").read())

# === neighbour_watches
# tries: to be told which files its neighbours open, by inotify, fanotify and folders' notices
# %% cell after setup
import select

watch = libc.inotify_init1(os.O_NONBLOCK)
for place in ("/course/course_utils", "/usr/bin", "/bin", os.path.dirname(sys.executable)):
    for folder, *_ in os.walk(place):
        libc.inotify_add_watch(watch, folder.encode(), 0x21)  # opened, read
group = libc.fanotify_init(0x200 | 0x2, os.O_RDONLY)  # names of files, no blocking
libc.fanotify_mark(group, 1, ctypes.c_uint64(0x21), -100, b"/course/course_utils")
folder = os.open("/course/course_utils", os.O_RDONLY)
noticed = tried(fcntl.fcntl, folder, fcntl.F_NOTIFY, fcntl.DN_ACCESS)
told = [] if noticed is None else ["a folder's notices"]
# %% cell before sum-all-form
for events in (watch, group):
    if events >= 0 and select.select([events], [], [], 0)[0]:
        told.append(os.read(events, 10_000))
print("learned:", *told)
