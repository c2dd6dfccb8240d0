# tries: to use up the signals that may wait for all processes of its user
# must: no point; graded
# %% cell after setup
import os
import signal
import time

LAST = signal.SIGRTMAX
pids, sent = [], 0
for _ in range(12):
    if (pid := os.fork()) == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, range(signal.SIGRTMIN, LAST + 1))
        time.sleep(20)
        os._exit(0)
    pids.append(pid)
time.sleep(0.2)
end = time.time() + 2
while time.time() < end:
    try:
        for pid in pids:
            os.kill(pid, LAST)
            sent += 1
    except OSError as fault:
        print(fault)
        break

# %% cell before sum-all-form
print(sent, "signals wait")
print("learned:")
