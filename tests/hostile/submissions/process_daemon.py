# tries: to leave a daemon behind that outlives the grading and writes to /tmp
# must: no point; graded
# %% cell after setup
import os
import pathlib
import signal
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        pathlib.Path("/proc/self/comm").write_text("hostile-daemon")
        until = time.monotonic() + 300
        while time.monotonic() < until:
            pathlib.Path("/tmp/escaped-daemon").write_text(str(time.time()))
            time.sleep(0.5)
    os._exit(0)
