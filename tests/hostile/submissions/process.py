"""Processes and signals."""
# must: no point; graded or needs a person

# === process_abort
# tries: to abort the process in the answer
# %% add(numbers)
os.abort()

# === process_at_exit
# tries: to act when the interpreter shuts down: atexit, __del__ and a thread that stays
# must: no point; graded
# %% cell after setup
import atexit


def act():
    pathlib.Path("/tmp/escaped-exit").write_text("at exit\n")
    for number in range(3, 64):
        tried(os.write, number, b'{"kind": "done", "ok": true}')
    time.sleep(30)


class Last:
    def __del__(self):
        act()


last = Last()
atexit.register(act)
threading.Thread(target=time.sleep, args=(60,)).start()


# === process_daemon
# tries: to leave a daemon behind that outlives the grading and writes to /tmp
# must: no point; graded
# %% cell after setup
def write():
    pathlib.Path("/tmp/escaped-daemon").write_text(str(time.time()))


daemon("hostile-daemon", write, 0.5)

# === process_exit
# tries: os._exit in the answer, with the status of success
# %% add(numbers)
os._exit(0)

# === process_exit_cell
# tries: os._exit in a cell of its own, before any test has run
# %% cell after setup
os._exit(0)

# === process_fork_twice
# tries: to fork in the answer, so that two copies answer every call from then on
# %% add(numbers)
return 0 if os.fork() else 12
# %% squares(numbers)
return 50 if os.fork() == 0 else 0


# === process_gradebook_daemon
# tries: a daemon that gives everybody other points in the gradebook, later
# must: no point; graded
# %% cell after setup
def forge():
    above = {os.path.abspath(f"{'../' * depth}gradebook.db") for depth in range(8)}
    for path in filter(os.path.exists, {*above, *glob.glob("/home/*/*/gradebook.db")}):
        tried(update, path, "update grade set auto_score = 1, manual_score = 1")


daemon("hostile-book", forge, 0.2)

# === process_group_kill
# tries: to kill its process group, to which the server may belong that has forked it
# %% add(numbers)
os.kill(0, signal.SIGKILL)
return 0

# === process_group_stop
# tries: to stop its process group, and its session's, for ever
# %% add(numbers)
for group in {0, os.getpgrp(), os.getsid(0), os.getpgid(os.getppid())}:
    tried(os.killpg, group, signal.SIGSTOP)
return 0

# === process_kill_all
# tries: to kill every process that it may kill
# %% add(numbers)
os.kill(-1, signal.SIGKILL)
return 0

# === process_kill_parents
# tries: to kill its parent, and its parent's parent, up to the grader
# %% cell after setup
for pid in ancestors():
    os.kill(pid, signal.SIGKILL)
os.kill(0, signal.SIGKILL)

# === process_namespaces
# tries: to make new namespaces, mount things there and to be root in them
# must: no point; graded
# %% cell after setup
for flags in (0x10000000, 0x10020000, 0x20000000, 0x40000000, 0x7E020000):
    if os.fork() == 0:
        print(flags, libc.unshare(flags), os.strerror(ctypes.get_errno()))
        print(libc.mount(b"proc", b"/tmp", b"proc", 0, None), os.strerror(ctypes.get_errno()))
        os._exit(0)
    os.wait()
for command in (
    "unshare -Ur id",
    "unshare -Urm mount --bind /tmp /etc",
    "su -c 'touch /tmp/escaped-su'",
    "sudo -n touch /tmp/escaped-sudo",
    "mount -t tmpfs none /tmp",
    "mknod /tmp/escaped-disk b 8 0",
    "chroot / touch /tmp/escaped-chroot",
    "nsenter -t 1 -a touch /tmp/escaped-nsenter",
):
    subprocess.run(command, shell=True, stdin=subprocess.DEVNULL)

# === process_recursion
# tries: recursion without a limit, until the stack of the process is full
# %% cell after setup
sys.setrecursionlimit(10**9)
threading.stack_size(2**26)


class Endless:
    def __getattr__(self, name):
        return getattr(self, name)


# %% add(numbers)
return add([Endless().value, *numbers])

# === process_segfault
# tries: a segmentation fault in the answer
# %% add(numbers)
return ctypes.string_at(0)

# === process_signals
# tries: handlers of its own for every signal, timers and alarms that fire in the grader's code
# %% cell after setup
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    tried(signal.signal, number, lambda *args: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
# %% add(numbers)
return 0

# === process_stop
# tries: to stop itself and its parents with SIGSTOP, so that the batch waits for ever
# %% add(numbers)
for pid in [*ancestors(), os.getpid()]:
    os.kill(pid, signal.SIGSTOP)

# === process_system_calls
# tries: system calls with a history of faults, and memory that nobody else can see
# must: no point; graded; says allowed: \[\]
# %% add(numbers)
buffer = ctypes.create_string_buffer(256)
calls = {"modify_ldt": (154, 1, buffer, 16), "memfd_secret": (447, 0), "bpf": (321, 0, buffer, 128)}
calls |= {"userfaultfd": (323, 0), "io_uring_setup": (425, 1, buffer), "keyctl": (250, 0, -3, 1)}
allowed = []
for name, arguments in calls.items():
    if libc.syscall(*arguments) >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
        allowed.append(name)
raise RuntimeError(f"allowed: {allowed}")

# === process_terminal
# tries: to type commands into the terminal of the person who grades
# must: no point; graded
# %% cell after setup
for name in ("/dev/tty", "/dev/console", "/proc/self/fd/0", "/dev/pts/0", "/dev/tty1"):
    if terminal := tried(os.open, name, os.O_RDWR | os.O_NOCTTY):
        for letter in b"touch /tmp/escaped-terminal\n":
            tried(fcntl.ioctl, terminal, 0x5412, bytes([letter]))

# === process_thread_late
# tries: threads that answer, print and raise long after the call is over
# must: no point; graded
# %% cell after setup
import _thread


def late():
    while True:
        time.sleep(0.05)
        print("late")
        _thread.interrupt_main()


# %% add(numbers)
threading.Thread(target=late, daemon=True).start()
return 0
