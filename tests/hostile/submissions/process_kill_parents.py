# tries: to kill its parent, and its parent's parent, up to the grader
# must: no point; graded or needs a person
# %% cell after setup
import os
import signal

pid = os.getppid()
while pid > 1:
    above = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
    os.kill(pid, signal.SIGKILL)
    pid = above
os.kill(0, signal.SIGKILL)
