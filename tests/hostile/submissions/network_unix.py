# tries: abstract and named Unix sockets: the session bus, the display, Docker, and one that listens
# must: no point; graded
# %% cell after setup
import glob
import socket

names = [
    "\0hostile-canary",
    "/run/docker.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
]
names += [
    "\0/tmp/.X11-unix/X0",
    *glob.glob("/tmp/**/*.sock*", recursive=True),
    *glob.glob("/run/*/*"),
]
for line in open("/proc/net/unix").read().splitlines()[1:]:
    if len(fields := line.split()) > 7:
        names.append(fields[7].replace("@", "\0", 1))
for name in names:
    try:
        with socket.socket(socket.AF_UNIX) as attempt:
            attempt.settimeout(1)
            attempt.connect(name)
            attempt.sendall(b"hello")
            print(repr(name), "answers")
    except OSError as fault:
        print(repr(name), fault)
