# tries: to write into every terminal that a neighbour opens, to read from it, and to stop it
# must: no point; graded
# %% cell after setup
import subprocess
import sys

SEARCH = """
import os, termios, time

end = time.time() + 20
while time.time() < end:
    for name in os.listdir("/dev/pts"):
        try:
            terminal = os.open(f"/dev/pts/{name}", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            continue
        if name != "ptmx":
            print("terminal", name, flush=True)
            termios.tcflow(terminal, termios.TCOOFF)
            os.write(terminal, b"written by a neighbour")
        os.close(terminal)
    time.sleep(0.001)
"""
seen = open("/tmp/seen", "w")
subprocess.Popen([sys.executable, "-c", SEARCH], stdout=seen, stderr=seen)

# %% cell before sum-all-form
print("learned:", open("/tmp/seen").read())
