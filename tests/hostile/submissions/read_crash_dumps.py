# tries: to have a core dump of itself or of a parent written, and to read it
# must: no point; graded or needs a person
# %% cell after imports
import os
import resource
import signal

try:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
except (ValueError, OSError) as fault:
    print(fault)
if os.fork() == 0:
    os.kill(os.getpid(), signal.SIGQUIT)
for name in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/yama/ptrace_scope"):
    try:
        open(name, "w").write("|/usr/bin/touch /tmp/escaped-core")
    except OSError as fault:
        print(fault)
