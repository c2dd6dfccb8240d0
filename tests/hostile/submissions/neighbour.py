"""Neighbours in the same server."""
# must: no point; graded

# === neighbour_descriptors
# tries: to find a descriptor, a socket or a pipe that it has in common with its neighbours
# must: no point; graded or needs a person
# %% cell after setup
import stat

shared = []
for number in range(512):
    try:
        about = os.fstat(number)
    except OSError:
        continue
    link = os.readlink(f"/proc/self/fd/{number}")
    if link != "/dev/null" and not stat.S_ISSOCK(about.st_mode):
        shared.append(link)

# %% cell before sum-all-form
print("learned:", *shared)


# === neighbour_leases
# tries: to hold up every neighbour who opens a file of the course, by a lease on it
# %% cell after setup
leases = []
for place in ("/course/course_utils", *sys.path):
    paths = (os.path.join(folder, name) for folder, _, names in os.walk(place) for name in names)
    for path in itertools.islice(paths, 400):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            leases.append(descriptor)
        except OSError:
            os.close(descriptor)

# %% cell before sum-all-form
print("learned:", f"how to hold up {len(leases)} files" if leases else "")


# === neighbour_locks
# tries: to lock every file that its neighbours read as well, and every device, in all three ways
# %% cell after setup
held, refused = [], set()
places = [*sys.path, os.path.dirname(os.__file__), "/etc", "/dev", "/usr/share"]
for place in places:
    paths = (os.path.join(top, name) for top, _, names in os.walk(place) for name in names[:3])
    for path in itertools.islice(paths, 300):
        if path.startswith(("/tmp", "/dev/shm", "/dev/pts")) or not os.path.exists(path):
            continue
        for mode in (os.O_RDWR, os.O_RDONLY):
            try:
                descriptor = os.open(path, mode | os.O_NONBLOCK)
            except OSError:
                continue
            for lock, operation in (
                (fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB),
                (fcntl.lockf, fcntl.LOCK_EX | fcntl.LOCK_NB),
                (fcntl.lockf, fcntl.LOCK_SH | fcntl.LOCK_NB),
            ):
                try:
                    lock(descriptor, operation)
                    held.append(descriptor)
                except OSError as fault:
                    refused.add(fault.errno)
            if descriptor not in held:
                os.close(descriptor)

# %% cell before sum-all-form
print(len(held), "locks are held; refused by", refused)
print("learned:")


# === neighbour_shared
# tries: shared memory, semaphores and message queues of every kind, and sockets' abstract names
# %% cell after setup
libc = ctypes.CDLL(None, use_errno=True)
found = []
for line in open("/proc/self/maps"):
    if re.match(r"\S+ .w.s", line):
        found.append(line)
for file in ("shm", "sem", "msg"):
    found += open(f"/proc/sysvipc/{file}").read().splitlines()[1:]
found += os.listdir("/dev/shm")
found += [line for line in open("/proc/net/unix") if "@" in line]
mine = [libc.shmget(key, 4096, 0o1666) for key in range(0x514C, 0x515C)]  # IPC_CREAT
mine += [libc.semget(key, 1, 0o1666) for key in range(0x514C, 0x515C)]
for name in ("qlora", "psm_qlora", "sem.qlora"):
    open(f"/dev/shm/{name}", "w").write("a neighbour's")
names = []
for name in ("\0qlora", "\0/tmp/qlora", "\0"):
    names.append(socket.socket(socket.AF_UNIX))
    names[-1].bind(name)
    names[-1].listen()

# %% cell before sum-all-form
print("learned:", *found)


# === neighbour_signals
# tries: to use up the signals that may wait for all processes of its user
# %% cell after setup
LAST = signal.SIGRTMAX
pids, sent = [], 0
for _ in range(12):
    if (pid := os.fork()) == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, range(signal.SIGRTMIN, LAST + 1))
        time.sleep(20)
        os._exit(0)
    pids.append(pid)
time.sleep(0.2)
end = time.time() + 2
while time.time() < end:
    try:
        for pid in pids:
            os.kill(pid, LAST)
            sent += 1
    except OSError as fault:
        print(fault)
        break

# %% cell before sum-all-form
print(sent, "signals wait")
print("learned:")


# === neighbour_terminals
# tries: to write into every terminal that a neighbour opens, to read from it, and to stop it
# %% cell after setup
SEARCH = """
import os, termios, time

end = time.time() + 20
while time.time() < end:
    for name in os.listdir("/dev/pts"):
        try:
            terminal = os.open(f"/dev/pts/{name}", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            continue
        if name != "ptmx":
            print("terminal", name, flush=True)
            termios.tcflow(terminal, termios.TCOOFF)
            os.write(terminal, b"written by a neighbour")
        os.close(terminal)
    time.sleep(0.001)
"""
seen = open("/tmp/seen", "w")
subprocess.Popen([sys.executable, "-c", SEARCH], stdout=seen, stderr=seen)

# %% cell before sum-all-form
print("learned:", open("/tmp/seen").read())


# === neighbour_watches
# tries: to be told which files its neighbours open, by inotify, fanotify and folders' notices
# %% cell after setup
import select

libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init1(os.O_NONBLOCK)
for place in ("/course/course_utils", "/usr/bin", "/bin", os.path.dirname(sys.executable)):
    for folder, *_ in os.walk(place):
        libc.inotify_add_watch(watch, folder.encode(), 0x21)  # opened, read
group = libc.fanotify_init(0x200 | 0x2, os.O_RDONLY)  # names of files, no blocking
libc.fanotify_mark(group, 1, ctypes.c_uint64(0x21), -100, b"/course/course_utils")
told = []
try:
    fcntl.fcntl(os.open("/course/course_utils", os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_ACCESS)
    told.append("a folder's notices")
except OSError:
    pass

# %% cell before sum-all-form
for events in (watch, group):
    if events >= 0 and select.select([events], [], [], 0)[0]:
        told.append(os.read(events, 10_000))
print("learned:", *told)
