"""The filter of system calls: the calls that it refuses, and the calls that still work."""

import ctypes
import errno
import json
import os
import platform
import subprocess
import sys
import textwrap

import pytest

from tests.sandboxes import needed, printed
from workshop.grading.sandbox import seccomp
from workshop.grading.sandbox.limits import Limits

# An error number that no kernel returns. If a call returns it, the filter refused the call.
MARK = 3999
START = """
import ctypes, errno, json, os, platform, sys
from workshop.grading.sandbox import seccomp
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
machine = platform.machine()
calls = seccomp.call_numbers(machine)

def call(name, *arguments):
    "Make a system call, and return 0 or the number of the error."
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(calls[name]), *map(ctypes.c_long, arguments))
    return ctypes.get_errno() if result == -1 else 0

# PR_SET_NO_NEW_PRIVS
assert libc.prctl(38, 1, 0, 0, 0) == 0
"""
here = pytest.mark.skipif(
    sys.platform != "linux" or not seccomp.supported(),
    reason="the filter needs Linux on x86-64 or AArch64",
)


def run(source):
    """Run `START` and a script in a new process, and return what the script has printed."""
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", START + textwrap.dedent(source)]
    return subprocess.check_output(command, text=True, env=environment, timeout=60)


@here
def test_the_kernel_refuses_calls_because_of_the_filter():
    """Without the filter, no call would have an effect: all arguments are -1."""
    answers = json.loads(
        run(f"""
        os.setsid()
        seccomp.install_program(seccomp.filter_program(machine, {MARK}), calls["seccomp"])
        never, terminal = [-1] * 6, os.openpty()[1]
        unchecked = [name for name in calls if name not in seccomp.CHECKED.split()]
        named = {{name: call(name, *never) for name in unchecked}}
        requests = [0x5412, 0x7_0000_5412, 0x541C]
        named["ioctl"] = [call("ioctl", terminal, request, -1) for request in requests]
        named["fcntl"] = [call("fcntl", terminal, command, -1) for command in (1024, 1026, 1040)]
        # CLONE_SIGHAND without CLONE_VM is invalid, so no process is created.
        bits = [1 << bit for bit in (17, *range(25, 31))]
        named["clone"] = [call("clone", bit | 0x800 | 0x4000_0000_0000) for bit in bits]
        print(json.dumps(named))
        """)
    )
    machine = platform.machine()
    missing = seccomp.call_numbers(machine, seccomp.MISSING)
    expected = dict.fromkeys(seccomp.call_numbers(machine, seccomp.REFUSED), MARK)
    expected |= dict.fromkeys(missing, errno.ENOSYS)
    assert answers == expected | {"ioctl": [MARK] * 3, "fcntl": [MARK] * 3, "clone": [MARK] * 7}


@here
def test_the_filter_applies_to_other_threads_and_child_processes_and_stays():
    run("""
        import subprocess, threading
        ready, answers = threading.Event(), []
        def wait():
            ready.wait()
            answers.append(call("unshare", 0))
        thread = threading.Thread(target=wait)
        thread.start()
        seccomp.install_filter()
        ready.set()
        thread.join()
        assert answers == [errno.EPERM], answers
        source = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); libc.unshare(0)"
        source += "; print(ctypes.get_errno())"
        assert subprocess.check_output([sys.executable, "-c", source]).strip() == b"1"
        # A second filter can't allow what the first one refuses.
        seccomp.install_program([(seccomp.RETURN, 0, 0, seccomp.ALLOW)], calls["seccomp"])
        assert call("unshare", 0) == errno.EPERM
        """)


@needed
@pytest.mark.full
def test_libraries_that_exercises_use_work_in_the_sandbox():
    source = """
        import multiprocessing, os, subprocess
        import matplotlib.pyplot as plt
        import safetensors.torch
        import torch

        torch.set_num_threads(2)
        a = torch.randn(600, 600)
        assert torch.allclose((a @ a)[0], a[0] @ a, atol=1e-2)
        batches = torch.utils.data.DataLoader(range(8), batch_size=4, num_workers=1)
        assert [len(batch) for batch in batches] == [4, 4]
        safetensors.torch.save_file({"a": a}, "a.safetensors")
        assert torch.equal(safetensors.torch.load_file("a.safetensors")["a"], a)
        plt.plot([1, 2])
        plt.savefig("x.png")
        plt.close()
        assert subprocess.check_output("echo $((6 * 7))", shell=True) == b"42\\n"
        assert os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1] == 0
        for method in ("spawn", "forkserver"):
            with multiprocessing.get_context(method).Pool(2) as pool:
                assert pool.map(abs, [-1, 2]) == [1, 2]
        print("complete")
        """
    assert printed(textwrap.dedent(source), Limits()) == "complete\n"


def action(machine, number, arguments=(0,) * 6, architecture=None):
    """Run the filter's program for a call as the kernel does, and return the resulting action."""
    if architecture is None:
        architecture = seccomp.MACHINES[machine][1]
    words = {0: number, 4: architecture}
    for i, argument in enumerate(arguments):
        words[16 + 8 * i], words[20 + 8 * i] = argument & 0xFFFF_FFFF, argument >> 32
    loaded, position, lines = 0, 0, seccomp.filter_program(machine)
    while True:
        code, if_true, if_false, operand = lines[position]
        position += 1
        if code == 0x20:
            loaded = words[operand]
        elif code == 0x06:
            return operand
        else:
            tests = {0x15: loaded == operand, 0x25: loaded > operand, 0x45: loaded & operand}
            position += if_true if tests[code] else if_false


ALLOW, KILL, EPERM, ENOSYS = 0x7FFF_0000, 0x8000_0000, 0x0005_0001, 0x0005_0026


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_the_actions_of_the_program_on_each_machine(machine):
    calls = seccomp.call_numbers(machine)
    expected = dict.fromkeys(seccomp.call_numbers(machine, seccomp.REFUSED).values(), EPERM)
    expected |= dict.fromkeys(seccomp.call_numbers(machine, seccomp.MISSING).values(), ENOSYS)
    for number in range(600):
        newer = ENOSYS if number > seccomp.NEWEST else ALLOW
        assert action(machine, number) == expected.get(number, newer), number
    # memfd_secret, and modify_ldt, which only x86-64 has
    assert action(machine, 447) == action("x86_64", 154) == EPERM
    # getpid of x32, and a call of i386
    assert action(machine, 2**30 + 39) == ENOSYS
    assert action(machine, 39, architecture=0x4000_0003) == KILL
    # The flags of a new thread, of a fork, and of a fork with a new user namespace
    assert action(machine, calls["clone"], (0x3D_0F00, 0, 0, 0, 0, 0)) == ALLOW
    assert action(machine, calls["clone"], (0x0120_0011, 0, 0, 0, 0, 0)) == ALLOW
    assert action(machine, calls["clone"], (0x1000_0011, 0, 0, 0, 0, 0)) == EPERM
    assert action(machine, calls["ioctl"], (0, 0x1_0000_5412, 0, 0, 0, 0)) == EPERM
    assert action(machine, calls["ioctl"], (0x5412, 0x5401, 0x541C, 0, 0, 0)) == ALLOW
    # F_SETLEASE and F_SETFD
    assert action(machine, calls["fcntl"], (3, 1024, 1, 0, 0, 0)) == EPERM
    assert action(machine, calls["fcntl"], (1024, 2, 1026, 0, 0, 0)) == ALLOW


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_the_numbers_of_the_calls_are_those_of_libseccomp(machine):
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp is not installed")
    ours = seccomp.call_numbers(machine)
    names = seccomp.call_numbers("x86_64").keys()
    # libseccomp uses the same numbers for machines. Calls that a machine doesn't have are negative.
    resolve, architecture = library.seccomp_syscall_resolve_name_arch, seccomp.MACHINES[machine][1]
    theirs = {name: resolve(ctypes.c_uint32(architecture), name.encode()) for name in names}
    # An old libseccomp returns -1 for calls that are newer than itself.
    new = {"memfd_secret", "quotactl_fd", "mount_setattr", "cachestat"}
    assert {name for name, number in theirs.items() if number == -1} <= new
    assert {name: n for name, n in theirs.items() if n >= 0} == {
        name: n for name, n in ours.items() if theirs[name] != -1
    }


@pytest.mark.parametrize("machine", ["riscv64", "i686", ""])
def test_no_filter_is_installed_on_other_machines(monkeypatch, machine):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(seccomp, "install_program", lambda *_: pytest.fail("installed"))
    seccomp.install_filter()
    assert not seccomp.supported()
