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
import struct
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
    move_mount          429 429    ptrace             101 117    swapoff           168 225
    mount_setattr       442 442    process_vm_readv   310 270    reboot            169 142
    unshare             272  97    process_vm_writev  311 271    acct              163  89
    setns               308 268    pidfd_getfd        438 438    quotactl          179  60
    open_by_handle_at   304 265    kcmp               312 272    quotactl_fd       443 443
    name_to_handle_at   303 264    settimeofday       164 170    sethostname       170 161
    lookup_dcookie      212  18    clock_settime      227 112    setdomainname     171 162
    nfsservctl          180  42    adjtimex           159 171    iopl              172   -
    vhangup             153  58    clock_adjtime      305 266    ioperm            173   -
    inotify_init        253   -    inotify_init1      294  26    inotify_add_watch 254  27
    fanotify_init       300 262    fanotify_mark      301 263    sched_setaffinity 203 122
    mincore              27 232    cachestat          451 451    io_setup          206   0
    modify_ldt          154   -    memfd_secret       447 447    personality       135  92
    syslog              103 116
"""
# For these calls, the filter returns ENOSYS, which means that the kernel doesn't have the call. So
# libraries use something else, such as clone, or a file in /tmp or /dev/shm. memfd_create and
# shmget are refused because `limits.watcher` can't measure their memory while it isn't mapped.
MISSING = """
    clone3              435 435    flock               73  32
    memfd_create        319 279    shmget              29 194
"""
# The filter checks one argument of clone, ioctl and fcntl. The number of
# seccomp is only needed to install the filter.
CHECKED = """
    clone                56 220    ioctl               16  29    fcntl              72  25
    seccomp             317 277
"""
# System calls with numbers above NEWEST are refused. These calls are either newer than
# Linux 6.10, for which the tables above were written, or x86-64's x32 calls with 32-bit pointers.
NEWEST = 462
# For each machine, the column of its numbers in the tables above, and its AUDIT_ARCH constant.
MACHINES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}

# Offsets in `struct seccomp_data`, in bytes (B).
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
# The codes of BPF instructions.
LOAD, EQUAL, GREATER, ANY_BIT, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
# The actions that a filter can return; ERROR is combined with an error number.
ALLOW, ERROR, KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
# The operation and the flag for seccomp(2).
SET_FILTER, ALL_THREADS = 1, 1

# For each checked call: the position of the argument, the test, and the values that are refused.
ARGUMENT_TESTS = {
    # CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID and
    # CLONE_NEWNET create namespaces.
    "clone": (0, ANY_BIT, (0x7E02_0000,)),
    # TIOCSTI writes into a terminal's input. TIOCLINUX can paste into a console.
    "ioctl": (1, EQUAL, (0x5412, 0x541C)),
    # F_SETLEASE and F_SETDELEG can delay other processes that open a file. F_NOTIFY reports when
    # other processes read a folder.
    "fcntl": (1, EQUAL, (1024, 1040, 1026)),
}

# The instruction's code, the jump if true, the jump if false, and the operand.
Instruction = tuple[int, int, int, int]


def supported() -> bool:
    """Return whether the filter supports this machine's architecture."""
    return platform.machine() in MACHINES and sys.maxsize > 2**32


def install_filter() -> None:
    """Install the filter permanently, if it supports this machine's architecture.

    The filter applies to all threads of this process and to all processes that they start.
    """
    if supported():
        machine = platform.machine()
        install_program(filter_program(machine), call_numbers(machine, CHECKED)["seccomp"])


def install_program(instructions: list[Instruction], call: int) -> None:
    """Install a BPF program as a filter of system calls, with the system call seccomp(2)."""
    # The C structures sock_filter and sock_fprog.
    lines = ctypes.create_string_buffer(
        b"".join(struct.pack("HBBI", *each) for each in instructions)
    )
    program = struct.pack("HP", len(instructions), ctypes.addressof(lines))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(*map(ctypes.c_long, (call, SET_FILTER, ALL_THREADS)), program)
    # On an error, the result is -1, or the id of a thread that already has a different filter.
    if result:
        number = ctypes.get_errno() if result < 0 else errno.EBUSY
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def call_numbers(machine: str, table: str = REFUSED + MISSING + CHECKED) -> dict[str, int]:
    """Return the number of each system call in a table that exists on a machine, by its name."""
    column, _ = MACHINES[machine]
    words = table.split()
    calls = zip(words[::3], words[1 + column :: 3], strict=True)
    return {name: int(number) for name, number in calls if number != "-"}


def filter_program(machine: str, refusal: int = errno.EPERM) -> list[Instruction]:
    """Return the filter as a BPF program, which the kernel runs at each system call.

    All jumps in the program are forward:

        native architecture? ───no──► kill the process            (calls of i386)
              │yes
        number > NEWEST? ─────yes───► ENOSYS
        number is missing? ───yes───► ENOSYS                      (for each of MISSING)
        number is refused? ───yes───► EPERM                       (for each of REFUSED)
        number is clone? ─────yes───► a new namespace? ───────────yes──► EPERM │ no ──► allow
        number is ioctl? ─────yes───► TIOCSTI or TIOCLINUX? ──────yes──► EPERM │ no ──► allow
        number is fcntl? ─────yes───► a lease or a watch? ────────yes──► EPERM │ no ──► allow
              │no
            allow

    The filter compares only the lower 32 bits of the arguments, because the kernel ignores the
    upper bits of the checked arguments of clone, ioctl and fcntl.

    All submissions can read the same files. With flock, a lease or a watch on such a file, a
    submission could delay other submissions or learn which files they read. So the filter refuses
    flock, leases and watches for every file. Record locks are allowed, because sqlite3 needs them.
    They are harmless here: an exclusive record lock requires that the file is open for writing, and
    the shared files are read-only.
    """
    refuse, unknown = _return(ERROR | refusal), _return(ERROR | errno.ENOSYS)
    _, architecture = MACHINES[machine]
    lines = [_load(ARCHITECTURE), (EQUAL, 1, 0, architecture), *_return(KILL)]
    lines += [_load(NUMBER), *_when(GREATER, NEWEST, unknown)]
    for table, action in ((MISSING, unknown), (REFUSED, refuse)):
        for number in call_numbers(machine, table).values():
            lines += _when(EQUAL, number, action)
    for name, (position, test, values) in ARGUMENT_TESTS.items():
        then = [_load(ARGUMENTS + 8 * position)]
        for value in values:
            then += _when(test, value, refuse)
        number = call_numbers(machine, CHECKED)[name]
        lines += _when(EQUAL, number, [*then, *_return(ALLOW)])
    return lines + _return(ALLOW)


def _load(offset: int) -> Instruction:
    return (LOAD, 0, 0, offset)


def _return(action: int) -> list[Instruction]:
    return [(RETURN, 0, 0, action)]


def _when(test: int, operand: int, then: list[Instruction]) -> list[Instruction]:
    """Return instructions that run `then` if the loaded value passes a test."""
    return [(test, 0, len(then), operand), *then]
