"""Namespaces of its own for one process inside the sandbox: it shares nothing with its neighbours.

A process that was forked from a warm server sees all that the server may see. These functions take
away the other processes, the network, the temporary files and every capability. Bubblewrap does the
same, but only for a program that it starts itself; here the process exists already.

    unshare_namespaces    before the fork: the next process is the first of its PID namespace
    mount_private         in that process: a /proc, terminals, /tmp and /dev/shm of its own
    drop_privileges       no capability, and no way to gain one

Source: Linux's manual pages namespaces(7), user_namespaces(7), capabilities(7), prctl(2) and
netdevice(7).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

MOUNT, CGROUP, UTS, IPC = 0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000
USER, PID, NET = 0x1000_0000, 0x2000_0000, 0x4000_0000
NOSUID, NODEV, NOEXEC = 2, 4, 8  # of mount(2)
CAPBSET_DROP, NO_NEW_PRIVILEGES, SUBREAPER = 24, 38, 36  # of prctl(2)
CAPABILITIES = 64  # more than there are
CAPSET_VERSION = 0x2008_0522
SET_FLAGS, UP = 0x8914, 1  # of netdevice(7)
FILES = 20_000  # files and folders in one tmpfs, at most
TERMINALS = "newinstance,ptmxmode=0666,mode=0620"  # options of devpts
MOST_TERMINALS = 64  # of a submission; the kernel allows 3,072 for all together

libc = ctypes.CDLL(None, use_errno=True)


def unshare_namespaces() -> None:
    """Leave the server's namespaces; the next process that is forked is the first of its own.

    Raises:
        OSError: The system doesn't allow it.
    """
    user, group = os.getuid(), os.getgid()
    _call("unshare", USER | MOUNT | PID | NET | IPC | UTS | CGROUP)
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as stream:
            stream.write(text)


def mount_private(size: int) -> None:
    """Give this process its own /proc, its own terminals, and an empty /tmp and /dev/shm.

    Args:
        size: How many B fit into /tmp; half as many fit into /dev/shm.

    Raises:
        OSError: The system doesn't allow it.
    """
    _mount("proc", "/proc", NOSUID | NODEV | NOEXEC, None)
    # Without this, all submissions would share the server's terminals. A submission could then
    # write into the terminal of another one, and stop its output.
    _mount("devpts", "/dev/pts", NOSUID | NOEXEC, f"{TERMINALS},max={MOST_TERMINALS}")
    for folder, share in (("/tmp", size), ("/dev/shm", size // 2)):
        options = f"size={share},nr_inodes={FILES},mode=1777"
        _mount("tmpfs", folder, NOSUID | NODEV, options)
    with open("/proc/sys/user/max_user_namespaces", "w") as stream:
        stream.write("0")
    # The loopback device works, so that a submission can connect to a server of its own.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        fcntl.ioctl(own, SET_FLAGS, struct.pack("16sH14x", b"lo", UP))


def drop_privileges() -> None:
    """Give up every capability and every way to gain one, for this process and its children."""
    _call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for capability in range(CAPABILITIES):
        libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)  # fails for those that aren't there
    head = (ctypes.c_uint32 * 2)(CAPSET_VERSION, 0)
    _call("capset", head, (ctypes.c_uint32 * 6)())


def set_subreaper() -> None:
    """Let processes whose parents end become children of this one, not of the first process."""
    _call("prctl", SUBREAPER, 1, 0, 0, 0)


def _mount(kind: str, folder: str, flags: int, options: str | None) -> None:
    data = options.encode() if options else None
    _call("mount", kind.encode(), folder.encode(), kind.encode(), ctypes.c_ulong(flags), data)


def _call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
