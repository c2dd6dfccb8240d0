# tries: a loop that ignores SIGINT and SIGTERM and catches KeyboardInterrupt
# must: no point; graded or needs a person
# %% answer sum-all
import signal
import time

signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)


def add(numbers):
    while True:
        try:
            time.sleep(1)
        except BaseException as fault:
            print(type(fault))
