"""The filter of system calls: what it refuses, what goes on working, on this machine and others."""

import errno
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils.grading.sandbox import seccomp

MARK = 3999  # an error number that no kernel gives by itself
HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}
START = """
import ctypes, errno, json, os, platform, signal, sys
from course_utils.grading.sandbox import seccomp
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
machine = platform.machine()
calls = seccomp.numbers(machine)

def call(name, *arguments):
    "What the kernel answers: 0, or the number of the error."
    ctypes.set_errno(0)
    number = calls[name] if isinstance(name, str) else name
    came = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    return ctypes.get_errno() if came == -1 else 0

def restricted(refusal):
    "Install the filter; 0 for none."
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # no_new_privs
    if refusal == errno.EPERM:
        assert seccomp.restrict() is True
    elif refusal:
        seccomp.install(seccomp.program(machine, refusal), calls["seccomp"])
"""
# Nothing happens even where the kernel takes a call: every argument is -1, and there's no terminal.
CALLS = """
os.setsid()
restricted(int(sys.argv[1]))
never = [-1] * 6
answers = {name: call(name, *never) for name in seccomp.numbers(machine, seccomp.REFUSED)}
master, terminal = os.openpty()
answers["TIOCSTI"] = call("ioctl", terminal, 0x5412, -1)
answers["TIOCSTI, high bits set"] = call("ioctl", terminal, 0x7_0000_5412, -1)
answers["TIOCLINUX"] = call("ioctl", terminal, 0x541C, -1)
answers["F_SETLEASE"] = call("fcntl", terminal, 1024, -1)
answers["F_NOTIFY"] = call("fcntl", terminal, 1026, -1)
answers["F_SETDELEG"] = call("fcntl", terminal, 1040, -1)
answers["personality"] = call("personality", 0x0040000)  # no random addresses
for bit in (0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000):
    answers[f"clone {bit:x}"] = call("clone", bit | 0x800 | 0x4000_0000_0000)  # CLONE_SIGHAND alone
print(json.dumps(answers))
"""
NAMES = [*seccomp.numbers("x86_64", seccomp.REFUSED), "TIOCSTI", "TIOCSTI, high bits set"]
NAMES += ["TIOCLINUX", "F_SETLEASE", "F_NOTIFY", "F_SETDELEG", "personality"]
NAMES += [f"clone {2**bit:x}" for bit in (17, *range(25, 31))]

here = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in seccomp.MACHINES,
    reason="the filter knows Linux on x86-64 and AArch64",
)


def run(source, *arguments, folder=None, check=True):
    """Run a script with `START` before it in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", START + source, *map(str, arguments)]
    if folder:
        script = folder / "script.py"
        script.write_text(START + source, encoding="utf-8")
        command[1:3] = [str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=240, cwd=folder
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def answers():
    """What each call came to: with the filter, with one that marks its refusals, and without."""
    return {refusal: json.loads(run(CALLS, refusal).stdout) for refusal in (errno.EPERM, MARK, 0)}


@here
@pytest.mark.parametrize("name", NAMES)
def test_a_call_is_refused_by_the_filter(answers, name):
    if name not in answers[MARK]:
        pytest.skip("no such call on this machine")
    assert answers[errno.EPERM][name] == errno.EPERM
    assert answers[MARK][name] == MARK
    assert answers[0][name] != MARK


@here
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root alone is refused little else"
)
def test_without_the_filter_the_calls_are_not_refused(answers):
    refused = {name for name, answer in answers[0].items() if answer == errno.EPERM}
    assert refused <= {"kexec_load", "kexec_file_load", "init_module", "delete_module"} | {
        "finit_module", "bpf", "perf_event_open", "reboot", "TIOCSTI", "iopl", "ioperm",
    }  # a locked-down kernel refuses these to root as well  # fmt: skip


@here
def test_calls_that_are_looked_at_more_closely():
    run("""
restricted(errno.EPERM)
assert call("clone3", -1, -1) == errno.ENOSYS
assert call("flock", -1, -1) == errno.ENOSYS
assert call("fcntl", 0, 1, 0) == 0  # F_GETFD
assert call("personality", 0xFFFF_FFFF) == 0
assert call("ioctl", 0, 0x5413, -1) in (errno.ENOTTY, errno.EFAULT)  # TIOCGWINSZ
assert os.memfd_create("allowed") > 2
""")


@here
def test_children_and_other_threads_are_filtered_too():
    run("""
import subprocess, threading
ready, answers = threading.Event(), []
def wait():
    ready.wait()
    answers.append(call("unshare", 0))
thread = threading.Thread(target=wait)
thread.start()
restricted(MARK := 3999)
ready.set()
thread.join()
assert answers == [MARK], answers
source = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); libc.unshare(0)"
source += "; print(ctypes.get_errno())"
assert subprocess.check_output([sys.executable, "-c", source]).strip() == b"3999"
""")


@here
def test_it_stays_for_good():
    run("""
restricted(errno.EPERM)
seccomp.install([(seccomp.RETURN, 0, 0, seccomp.ALLOW)], calls["seccomp"])
assert call("unshare", 0) == errno.EPERM
""")


@here
def test_without_no_new_privs_it_is_an_error():
    source = """
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    seccomp.restrict()
except OSError as fault:
    print(errno.errorcode[fault.errno])
"""
    assert run(source).stdout.strip() == "EACCES"


@here
@pytest.mark.skipif(platform.machine() != "x86_64", reason="i386's calls exist on x86-64")
def test_a_call_of_i386_ends_the_process():
    source = """
import mmap
restricted(int(sys.argv[1]))
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000 cd80 c3"))  # mov eax, 20 (getpid); int 0x80; ret
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
print(ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid())
"""
    free = run(source, 0, check=False)
    if free.stdout.strip() != "True":
        pytest.skip("this kernel has no calls of i386")
    assert run(source, errno.EPERM, check=False).returncode == -31  # SIGSYS


@here
def test_what_exercises_use_goes_on_working(tmp_path):
    source = """
import multiprocessing, socket, subprocess, threading

def square(x):
    return x * x

if __name__ == "__main__":
    restricted(errno.EPERM)
    os.environ["MPLCONFIGDIR"] = os.environ["HF_HOME"] = os.getcwd()
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    import numpy as np
    import pandas as pd
    import safetensors.torch
    import torch

    torch.set_num_threads(2)
    a = torch.randn(600, 600, requires_grad=True)
    (a @ a).sum().backward()
    ones = torch.ones(600, 600)
    assert torch.allclose(a.grad, ones @ a.T + a.T @ ones, atol=1e-2)
    batches = torch.utils.data.DataLoader(range(8), batch_size=4, num_workers=1)
    assert [len(batch) for batch in batches] == [4, 4]
    safetensors.torch.save_file({"a": a.detach()}, "a.safetensors")
    assert torch.equal(safetensors.torch.load_file("a.safetensors")["a"], a)
    assert np.linalg.svd(np.eye(200))[1].sum() == 200
    pd.DataFrame({"x": [1, 2]}).to_csv("x.csv")
    plt.plot([1, 2])
    plt.savefig("x.png")
    assert os.path.getsize("x.png") > 1000

    assert subprocess.check_output("echo $((6 * 7))", shell=True) == b"42\\n"
    assert os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1] == 0
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(square, range(4)) == [0, 1, 4, 9]

    server = socket.create_server(("127.0.0.1", 0))
    def answer():
        connection, _ = server.accept()
        connection.sendall(connection.recv(9))
    thread = threading.Thread(target=answer)
    thread.start()
    with socket.create_connection(server.getsockname()) as client:
        client.sendall(b"over here")
        assert client.recv(9) == b"over here"
    thread.join()

    import sqlite3, warnings
    from filelock import FileLock
    warnings.simplefilter("ignore")  # that it makes a file instead
    for _ in range(2):
        with FileLock("own.lock", timeout=5):
            sqlite3.connect("own.db").execute("create table if not exists t (x)")
    print("all of it")
"""
    assert run(source, folder=tmp_path).stdout.strip() == "all of it"


def answer(machine, number, arguments=(0,) * 6, architecture=None):
    """What the filter answers to a call, by running its program as the kernel would."""
    if architecture is None:
        architecture = seccomp.MACHINES[machine][1]
    words = {0: number, 4: architecture}
    for i, argument in enumerate(arguments):
        words[16 + 8 * i], words[20 + 8 * i] = argument & 0xFFFF_FFFF, argument >> 32
    loaded, at, lines = 0, 0, seccomp.program(machine)
    while True:
        code, if_true, if_false, operand = lines[at]
        at += 1
        if code == 0x20:
            loaded = words[operand]
        elif code == 0x06:
            return operand
        else:
            tests = {0x15: loaded == operand, 0x35: loaded >= operand, 0x45: loaded & operand}
            at += if_true if tests[code] else if_false


ALLOW, KILL, EPERM, ENOSYS = 0x7FFF_0000, 0x8000_0000, 0x0005_0001, 0x0005_0026


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_the_program_for_either_machine(machine):
    calls = seccomp.numbers(machine)
    refused = set(seccomp.numbers(machine, seccomp.REFUSED).values())
    special = {calls[name] for name in ("clone", "clone3", "flock", "personality")}
    for number in range(600):
        expected = EPERM if number in refused else ALLOW
        if number not in special:
            assert answer(machine, number) == expected, number
    assert answer(machine, calls["clone3"]) == answer(machine, calls["flock"]) == ENOSYS
    assert answer(machine, 2**30 + 39) == ENOSYS  # x32's getpid
    assert answer(machine, 39, architecture=0x4000_0003) == KILL  # i386's
    assert answer(machine, calls["clone"], (0x3D_0F00, 0, 0, 0, 0, 0)) == ALLOW  # a thread
    assert answer(machine, calls["clone"], (0x0120_0011, 0, 0, 0, 0, 0)) == ALLOW  # a fork
    assert answer(machine, calls["clone"], (0x1000_0011, 0, 0, 0, 0, 0)) == EPERM
    assert answer(machine, calls["ioctl"], (0, 0x1_0000_5412, 0, 0, 0, 0)) == EPERM
    assert answer(machine, calls["ioctl"], (0x5412, 0x5401, 0x541C, 0, 0, 0)) == ALLOW
    assert answer(machine, calls["fcntl"], (3, 1024, 1, 0, 0, 0)) == EPERM  # F_SETLEASE
    assert answer(machine, calls["fcntl"], (1024, 2, 1026, 0, 0, 0)) == ALLOW  # F_SETFD
    assert answer(machine, calls["personality"], (0xFFFF_FFFF, 0, 0, 0, 0, 0)) == ALLOW
    assert answer(machine, calls["personality"], (0, 0, 0, 0, 0, 0)) == EPERM


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_the_system(machine):
    if not Path(HEADERS[machine]).is_file():
        pytest.skip("the kernel's headers aren't installed")
    text = Path(HEADERS[machine]).read_text()
    known = {name: int(n) for name, n in re.findall(r"define __NR(?:3264)?_(\w+) (\d+)", text)}
    calls = seccomp.numbers(machine)
    assert len(calls.keys() & known.keys()) > 50
    assert {name: known.get(name, number) for name, number in calls.items()} == calls


@pytest.mark.parametrize("machine", ["riscv64", "i686", ""])
def test_other_machines_have_no_filter(monkeypatch, machine):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(seccomp, "install", lambda *_: pytest.fail("installed"))
    assert seccomp.restrict() is False
