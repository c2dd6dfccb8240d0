# tries: handlers of its own for every signal, timers and alarms that fire in the grader's code
# must: no point; graded or needs a person
# %% cell after setup
import signal

for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(number, lambda *args: None)
    except (OSError, ValueError) as fault:
        print(fault)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)


# %% answer sum-all
def add(numbers):
    return 0
