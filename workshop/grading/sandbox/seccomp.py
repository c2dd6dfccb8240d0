"""Filter the system calls of a student process: the kernel refuses calls that no exercise needs.

Namespaces, dropped capabilities and no_new_privs already confine a process. In addition, the filter
blocks system calls to parts of the kernel whose errors have allowed confined processes to escape.

Sources: Linux's manual pages seccomp(2), clone(2) and ioctl_tty(2); Linux's header
`asm/unistd_64.h`, for the numbers of the calls; Linux's headers `linux/seccomp.h`, `linux/audit.h`
and `linux/filter.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

# The number of each refused call on x86-64 and on AArch64; "-" if the machine has no such call.
REFUSED = """
    mount               165  40    add_key            248 217    init_module       175 105
    umount2             166  39    request_key        249 218    finit_module      313 273
    pivot_root          155  41    keyctl             250 219    delete_module     176 106
    chroot              161  51    bpf                321 280    create_module     174   -
    fsopen              430 430    perf_event_open    298 241    query_module      178   -
    fsconfig            431 431    userfaultfd        323 282    get_kernel_syms   177   -
    fsmount             432 432    io_uring_setup     425 425    kexec_load        246 104
    fspick              433 433    io_uring_enter     426 426    kexec_file_load   320 294
    open_tree           428 428    io_uring_register  427 427    swapon            167 224
    open_tree_attr      467 467    ptrace             101 117    swapoff           168 225
    move_mount          429 429    process_vm_readv   310 270    reboot            169 142
    mount_setattr       442 442    process_vm_writev  311 271    acct              163  89
    unshare             272  97    pidfd_getfd        438 438    quotactl          179  60
    setns               308 268    kcmp               312 272    quotactl_fd       443 443
    open_by_handle_at   304 265    settimeofday       164 170    sethostname       170 161
    name_to_handle_at   303 264    clock_settime      227 112    setdomainname     171 162
    lookup_dcookie      212  18    adjtimex           159 171    iopl              172   -
    nfsservctl          180  42    clock_adjtime      305 266    ioperm            173   -
    vhangup             153  58    syslog             103 116    sched_setaffinity 203 122
    inotify_init        253   -    inotify_init1      294  26    inotify_add_watch 254  27
    fanotify_init       300 262    fanotify_mark      301 263    cachestat         451 451
    mincore              27 232    io_setup           206   0
"""
# The numbers of further calls. For clone, ioctl, fcntl and personality, the filter checks an
# argument. For clone3 and flock, the filter returns ENOSYS. The call seccomp installs the filter.
CHECKED = """
    clone                56 220    clone3             435 435    ioctl              16  29
    personality         135  92    seccomp            317 277    fcntl              72  25
    flock                73  32
"""
# For each machine, the column of its numbers in the tables above, and its AUDIT_ARCH constant.
MACHINES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}
# This bit is set in the numbers of x32 calls, the x86-64 calls with 32-bit pointers.
X32 = 0x4000_0000
# The flags of clone(2) that create namespaces: CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS,
# CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID and CLONE_NEWNET.
NEW_NAMESPACES = 0x7E02_0000
# With this argument, personality(2) returns the current personality without changing it.
QUERY = 0xFFFF_FFFF
# Requests of ioctl. TIOCSTI writes into a terminal's input. TIOCLINUX can paste into a console.
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
# Commands of fcntl. SETLEASE and SETDELEG can delay other processes that open a file. NOTIFY
# reports when other processes read a folder.
SETLEASE, NOTIFY, SETDELEG = 1024, 1026, 1040

# Offsets in `struct seccomp_data`, in bytes (B).
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
# The codes of BPF instructions.
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# The actions that a filter can return; ERROR is combined with an error number.
ALLOW, ERROR, KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
# The operation and the flag for seccomp(2).
SET_FILTER, ALL_THREADS = 1, 1

# The instruction's code, the jump if true, the jump if false, and the operand.
Instruction = tuple[int, int, int, int]


def install_filter() -> bool:
    """Install the filter permanently, and return whether the machine supports it.

    The filter applies to all threads of this process and to all processes that they start.

    Returns:
        True if the filter was installed; False on machines other than x86-64 and AArch64, on which
        nothing is installed.
    """
    machine = platform.machine() if sys.platform == "linux" and sys.maxsize > 2**32 else ""
    if machine not in MACHINES:
        return False
    install_program(filter_program(machine), call_numbers(machine)["seccomp"])
    return True


def install_program(instructions: list[Instruction], call: int) -> None:
    """Install a BPF program as a filter of system calls, with the system call seccomp(2)."""
    array = (_Filter * len(instructions))(*(_Filter(*line) for line in instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    arguments = (call, SET_FILTER, ALL_THREADS)
    result = libc.syscall(
        *map(ctypes.c_long, arguments), ctypes.byref(_Program(len(instructions), array))
    )
    # On an error, the result is -1, or the id of a thread that already has a different filter.
    if result:
        number = ctypes.get_errno() if result < 0 else errno.EBUSY
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def call_numbers(machine: str, table: str = REFUSED + CHECKED) -> dict[str, int]:
    """Return the numbers of a machine's system calls, by name.

    Args:
        table: A table such as `REFUSED`. Calls that the machine doesn't have are left out.
    """
    column, _ = MACHINES[machine]
    words = table.split()
    calls = zip(words[::3], words[1 + column :: 3], strict=True)
    return {name: int(number) for name, number in calls if number != "-"}


def filter_program(machine: str, refusal: int = errno.EPERM) -> list[Instruction]:
    """Return the filter as a BPF program, which the kernel runs at each system call.

    All jumps in the program are forward:

        native architecture? ───no──► kill the process            (calls of i386)
              │yes
        number ≥ 2^30? ───────yes───► ENOSYS                      (calls of x32)
        number is clone3? ────yes───► ENOSYS                      (libc then uses clone)
        number is flock? ─────yes───► ENOSYS                      (filelock then creates a file)
        number is refused? ───yes───► EPERM                       (for each of REFUSED)
        number is clone? ─────yes───► a new namespace? ───────────yes──► EPERM │ no ──► allow
        number is ioctl? ─────yes───► TIOCSTI or TIOCLINUX? ──────yes──► EPERM │ no ──► allow
        number is fcntl? ─────yes───► a lease or a watch? ────────yes──► EPERM │ no ──► allow
        number is personality? yes──► a query? ────────────────────no──► EPERM │ yes ─► allow
              │no
            allow

    The filter compares only the lower 32 bits of the arguments, because the kernel ignores the
    upper bits of the checked arguments of clone, ioctl, fcntl and personality.

    All submissions can read the same files. With flock, a lease or a watch on such a file, a
    submission could delay other submissions or learn which files they read. So the filter refuses
    flock, leases and watches for every file. Record locks are allowed, because sqlite3 needs them.
    They are harmless here: an exclusive record lock requires that the file is open for writing, and
    the shared files are read-only.
    """
    calls = call_numbers(machine)
    refuse = _return(ERROR | refusal)
    unknown = _return(ERROR | errno.ENOSYS)
    lines = [_load(ARCHITECTURE), *_unless(EQUAL, MACHINES[machine][1], _return(KILL))]
    lines += [_load(NUMBER), *_when(AT_LEAST, X32, unknown)]
    for name in ("clone3", "flock"):
        lines += _when(EQUAL, calls[name], unknown)
    for number in call_numbers(machine, REFUSED).values():
        lines += _when(EQUAL, number, refuse)
    arguments = {
        "clone": (0, _when(ANY_BIT, NEW_NAMESPACES, refuse)),
        "ioctl": (1, _when(EQUAL, TIOCSTI, refuse) + _when(EQUAL, TIOCLINUX, refuse)),
        "fcntl": (
            1,
            _when(EQUAL, SETLEASE, refuse)
            + _when(EQUAL, NOTIFY, refuse)
            + _when(EQUAL, SETDELEG, refuse),
        ),
        "personality": (0, _unless(EQUAL, QUERY, refuse)),
    }
    for name, (position, tests) in arguments.items():
        lines += _when(
            EQUAL, calls[name], [_load(ARGUMENTS + 8 * position), *tests, *_return(ALLOW)]
        )
    return lines + _return(ALLOW)


def _load(offset: int) -> Instruction:
    return (LOAD, 0, 0, offset)


def _return(action: int) -> list[Instruction]:
    return [(RETURN, 0, 0, action)]


def _when(test: int, operand: int, then: list[Instruction]) -> list[Instruction]:
    """Return instructions that run `then` if the loaded value passes a test."""
    return [(test, 0, len(then), operand), *then]


def _unless(test: int, operand: int, then: list[Instruction]) -> list[Instruction]:
    return [(test, len(then), 0, operand), *then]


# The C structure sock_filter.
class _Filter(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    ]


# The C structure sock_fprog.
class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Filter))]
