# tries: threads that answer, print and raise long after the call is over
# must: no point; graded
# %% answer sum-all
import _thread
import threading
import time


def late(numbers):
    while True:
        time.sleep(0.05)
        print("late")
        _thread.interrupt_main()


def add(numbers):
    threading.Thread(target=late, args=(numbers,), daemon=True).start()
    return 0
