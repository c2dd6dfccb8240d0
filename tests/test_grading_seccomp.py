"""The filter of system calls: the calls that it refuses, and the calls that still work."""

import errno
import json
import os
import platform
import subprocess
import sys

import pytest

from workshop.grading.sandbox import seccomp

# An error number that no kernel returns. If a call returns it, the filter refused the call.
MARK = 3999
START = """
import ctypes, errno, json, os, platform, signal, sys
from workshop.grading.sandbox import seccomp
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
machine = platform.machine()
calls = seccomp.call_numbers(machine)

def call(name, *arguments):
    "Make a system call, and return 0 or the number of the error."
    ctypes.set_errno(0)
    number = calls[name] if isinstance(name, str) else name
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    return ctypes.get_errno() if result == -1 else 0

def install(refusal):
    "Install a filter whose refused calls return this error number; 0 means no filter."
    # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    if refusal == errno.EPERM:
        assert seccomp.install_filter() is True
    elif refusal:
        seccomp.install_program(seccomp.filter_program(machine, refusal), calls["seccomp"])
"""
# No call has an effect, even if it isn't refused: all arguments are -1, and there is no controlling
# terminal.
CALLS = """
os.setsid()
install(int(sys.argv[1]))
never = [-1] * 6
answers = {name: call(name, *never) for name in seccomp.call_numbers(machine, seccomp.REFUSED)}
master, terminal = os.openpty()
answers["TIOCSTI"] = call("ioctl", terminal, 0x5412, -1)
answers["TIOCSTI, high bits set"] = call("ioctl", terminal, 0x7_0000_5412, -1)
answers["TIOCLINUX"] = call("ioctl", terminal, 0x541C, -1)
answers["F_SETLEASE"] = call("fcntl", terminal, 1024, -1)
answers["F_NOTIFY"] = call("fcntl", terminal, 1026, -1)
answers["F_SETDELEG"] = call("fcntl", terminal, 1040, -1)
# ADDR_NO_RANDOMIZE
answers["personality"] = call("personality", 0x0040000)
for bit in (0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000):
    # CLONE_SIGHAND without CLONE_VM is invalid, so no process is created.
    answers[f"clone {bit:x}"] = call("clone", bit | 0x800 | 0x4000_0000_0000)
print(json.dumps(answers))
"""
NAMES = [*seccomp.call_numbers("x86_64", seccomp.REFUSED), "TIOCSTI", "TIOCSTI, high bits set"]
NAMES += ["TIOCLINUX", "F_SETLEASE", "F_NOTIFY", "F_SETDELEG", "personality"]
NAMES += [f"clone {2**bit:x}" for bit in (17, *range(25, 31))]

here = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in seccomp.MACHINES,
    reason="the filter needs Linux on x86-64 or AArch64",
)


def run(source, *arguments, folder=None, check=True):
    """Run `START` and a script in a new process."""
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
    """The results of all calls: with the filter, with a filter that returns `MARK`, and without."""
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
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="without the filter, the kernel refuses many of the calls of other users",
)
def test_without_the_filter_the_calls_are_not_refused(answers):
    refused = {name for name, answer in answers[0].items() if answer == errno.EPERM}
    # A locked-down kernel refuses these calls to root, too.
    lockdown = ["kexec_load", "kexec_file_load", "init_module", "delete_module", "finit_module"]
    lockdown += ["bpf", "perf_event_open", "reboot", "TIOCSTI", "iopl", "ioperm"]
    assert refused <= {*lockdown}


@here
def test_the_filter_applies_to_child_processes_and_other_threads():
    run("""
import subprocess, threading
ready, answers = threading.Event(), []
def wait():
    ready.wait()
    answers.append(call("unshare", 0))
thread = threading.Thread(target=wait)
thread.start()
install(MARK := 3999)
ready.set()
thread.join()
assert answers == [MARK], answers
source = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); libc.unshare(0)"
source += "; print(ctypes.get_errno())"
assert subprocess.check_output([sys.executable, "-c", source]).strip() == b"3999"
""")


@here
def test_a_second_filter_cannot_allow_refused_calls():
    run("""
install(errno.EPERM)
seccomp.install_program([(seccomp.RETURN, 0, 0, seccomp.ALLOW)], calls["seccomp"])
assert call("unshare", 0) == errno.EPERM
""")


@here
@pytest.mark.full
def test_libraries_that_exercises_use_work_with_the_filter(tmp_path):
    source = """
import multiprocessing, socket, subprocess, threading

def square(x):
    return x * x

if __name__ == "__main__":
    install(errno.EPERM)
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
        connection.sendall(connection.recv(5))
    thread = threading.Thread(target=answer)
    thread.start()
    with socket.create_connection(server.getsockname()) as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
    thread.join()

    import sqlite3, warnings
    from filelock import FileLock
    # The warning says that filelock uses a file instead of flock.
    warnings.simplefilter("ignore")
    for _ in range(2):
        with FileLock("own.lock", timeout=5):
            sqlite3.connect("own.db").execute("create table if not exists t (x)")
    print("complete")
"""
    assert run(source, folder=tmp_path).stdout.strip() == "complete"


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
            tests = {0x15: loaded == operand, 0x35: loaded >= operand, 0x45: loaded & operand}
            position += if_true if tests[code] else if_false


ALLOW, KILL, EPERM, ENOSYS = 0x7FFF_0000, 0x8000_0000, 0x0005_0001, 0x0005_0026


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_the_actions_of_the_program_on_each_machine(machine):
    calls = seccomp.call_numbers(machine)
    refused = set(seccomp.call_numbers(machine, seccomp.REFUSED).values())
    checked = {calls[name] for name in ("clone", "clone3", "flock", "personality")}
    for number in set(range(600)) - checked:
        assert action(machine, number) == (EPERM if number in refused else ALLOW), number
    assert action(machine, calls["clone3"]) == action(machine, calls["flock"]) == ENOSYS
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
    assert action(machine, calls["personality"], (0xFFFF_FFFF, 0, 0, 0, 0, 0)) == ALLOW
    assert action(machine, calls["personality"], (0, 0, 0, 0, 0, 0)) == EPERM


@pytest.mark.parametrize("machine", ["riscv64", "i686", ""])
def test_no_filter_is_installed_on_other_machines(monkeypatch, machine):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(seccomp, "install_program", lambda *_: pytest.fail("installed"))
    assert seccomp.install_filter() is False
