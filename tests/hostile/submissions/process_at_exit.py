# tries: to act when the interpreter shuts down: atexit, __del__ and a thread that stays
# must: no point; graded
# %% cell after setup
import atexit
import os
import pathlib
import threading
import time


def act():
    pathlib.Path("/tmp/escaped-exit").write_text("at exit\n")
    for number in range(3, 64):
        try:
            os.write(number, b'{"kind": "done", "ok": true}')
        except OSError:
            continue
    time.sleep(30)


class Last:
    def __del__(self):
        act()


last = Last()
atexit.register(act)
threading.Thread(target=time.sleep, args=(60,)).start()
