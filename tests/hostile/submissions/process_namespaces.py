# tries: to make new namespaces, mount things there and to be root in them
# must: no point; graded
# %% cell after setup
import ctypes
import os
import subprocess

libc = ctypes.CDLL(None, use_errno=True)
for flags in (0x10000000, 0x10020000, 0x20000000, 0x40000000, 0x7E020000):
    if os.fork() == 0:
        print(flags, libc.unshare(flags), os.strerror(ctypes.get_errno()))
        print(libc.mount(b"proc", b"/tmp", b"proc", 0, None), os.strerror(ctypes.get_errno()))
        os._exit(0)
    os.wait()
TRY = [
    ["unshare", "-Ur", "id"],
    ["unshare", "-Urm", "mount", "--bind", "/tmp", "/etc"],
    ["su", "-c", "touch /tmp/escaped-su"],
    ["sudo", "-n", "touch", "/tmp/escaped-sudo"],
    ["mount", "-t", "tmpfs", "none", "/tmp"],
    ["mknod", "/tmp/escaped-disk", "b", "8", "0"],
    ["chroot", "/", "touch", "/tmp/escaped-chroot"],
    ["nsenter", "-t", "1", "-a", "touch", "/tmp/escaped-nsenter"],
]
for command in TRY:
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        print(command, done.returncode, done.stdout, done.stderr[-200:])
    except OSError as fault:
        print(command, fault)
