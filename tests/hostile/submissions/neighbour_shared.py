# tries: shared memory, semaphores and message queues of every kind, and sockets' abstract names
# must: no point; graded
# %% cell after setup
import ctypes
import os
import re
import socket

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
