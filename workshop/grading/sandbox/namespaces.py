"""Separate one process inside the sandbox from all others, by giving it its own namespaces.

A process that was forked from a warm server has access to everything that the server can access.
After the functions of this module have run, the process can access no other process, no network and
none of the server's temporary files, and it has no capabilities. Bubblewrap does the same, but only
for a program that bubblewrap starts. A forked process exists already, so bubblewrap can't be used
for it.

    unshare_namespaces    before the fork: the next process is the first of its PID namespace
    mount_private         in the forked process: its own /proc, terminals, /tmp and /dev/shm
    drop_privileges       in the forked process: no capability, and no way to gain one

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
# Flags of mount(2).
NOSUID, NODEV, NOEXEC = 2, 4, 8
# Operations of prctl(2).
CAPBSET_DROP, NO_NEW_PRIVILEGES, SUBREAPER = 24, 38, 36
# An upper bound on the number of capabilities; Linux has fewer.
CAPABILITIES = 64
CAPSET_VERSION = 0x2008_0522
# A request and a flag of netdevice(7).
SET_FLAGS, UP = 0x8914, 1
# Maximum number of files and folders in one tmpfs.
FILES = 20_000
# Mount options of the file system devpts.
TERMINALS = "newinstance,ptmxmode=0666,mode=0620"
# Maximum number of terminals of one submission. The kernel allows 3,072 for all submissions
# together.
MOST_TERMINALS = 64

libc = ctypes.CDLL(None, use_errno=True)


def unshare_namespaces() -> None:
    """Leave the server's namespaces and enter new ones.

    The next process that this process forks becomes the first of the new PID namespace.
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
    """Mount a /proc, terminals, an empty /tmp and an empty /dev/shm for this process alone.

    All files in /tmp may have `size` bytes (B) together, and all files in /dev/shm half of `size`.
    """
    _mount("proc", "/proc", NOSUID | NODEV | NOEXEC, None)
    # Without a private devpts, all submissions would share the server's terminals. A submission
    # could then write into another submission's terminal and stop that terminal's output.
    _mount("devpts", "/dev/pts", NOSUID | NOEXEC, f"{TERMINALS},max={MOST_TERMINALS}")
    for folder, share in (("/tmp", size), ("/dev/shm", size // 2)):
        options = f"size={share},nr_inodes={FILES},mode=1777"
        _mount("tmpfs", folder, NOSUID | NODEV, options)
    with open("/proc/sys/user/max_user_namespaces", "w") as stream:
        stream.write("0")
    # Enable the loopback device, so that a submission can connect to a server that it runs itself.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        fcntl.ioctl(own, SET_FLAGS, struct.pack("16sH14x", b"lo", UP))


def drop_privileges() -> None:
    """Drop all capabilities and all ways to gain one, for this process and its children."""
    _call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for capability in range(CAPABILITIES):
        # The call fails, without effect, for capabilities that the kernel doesn't have.
        libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)
    head = (ctypes.c_uint32 * 2)(CAPSET_VERSION, 0)
    _call("capset", head, (ctypes.c_uint32 * 6)())


def set_subreaper() -> None:
    """Make this process adopt its descendants whose parents have ended.

    Otherwise the first process of the PID namespace would adopt these descendants.
    """
    _call("prctl", SUBREAPER, 1, 0, 0, 0)


def _mount(kind: str, folder: str, flags: int, options: str | None) -> None:
    data = options.encode() if options else None
    _call("mount", kind.encode(), folder.encode(), kind.encode(), ctypes.c_ulong(flags), data)


def _call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
