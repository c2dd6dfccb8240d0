"""Honest accidents."""
# must: 9 points; graded
# from: solution

# === honest_await
# tries: nothing: await at the top of a cell, and answers that use threads and processes
# %% cell after imports
import asyncio

await asyncio.sleep(0)
# %% answer sum-all
from concurrent.futures import ThreadPoolExecutor


def add(numbers):
    if not numbers:
        raise ValueError("no numbers")
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(int, numbers))


# %% answer sum-squares
import multiprocessing


def square(n):
    return n * n


def squares(numbers):
    if not numbers:
        raise ValueError("no numbers")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(square, numbers))


# === honest_broken_trial
# tries: nothing: cells of one's own that fail, one of them because of a name used too early
# %% cell after imports
add([1, 2, 3])
# %% cell after sum-all
1 / 0
# %% cell after sum-all
assert add([1]) == 2

# === honest_byte_order_mark
# tries: nothing: the file went through an editor that writes UTF-16 with a mark
# %% files
files[FILE] = files[FILE].decode().encode("utf-16")

# === honest_checkpoints
# tries: nothing: Jupyter's folder of older copies was handed in as well
# %% files
files[".ipynb_checkpoints/09_sums-checkpoint.ipynb"] = dump(release)

# === honest_colab
# tries: nothing: Colab has replaced ids and metadata
# %% notebook
for number, cell in enumerate(notebook["cells"]):
    url = "https://localhost:8080/"
    cell["metadata"] = {"id": f"aBcD{number:08}", "colab": {"base_uri": url}}
    cell["source"] = cell["source"].splitlines(keepends=True)
    del cell["id"]
notebook["nbformat_minor"] = 0
notebook["metadata"] = {
    "colab": {"provenance": [], "name": "Copy of 09_sums.ipynb"},
    "kernelspec": {"name": "python3", "display_name": "Python 3"},
    "language_info": {"name": "python"},
}

# === honest_copy_of
# tries: nothing: the file is named as Colab names a copy
# %% files
files["Copy of 09_sums.ipynb"] = files.pop(FILE)

# === honest_deleted_answer
# tries: nothing: an answer was deleted
# must: 6 points; graded or needs a person
# %% notebook
notebook["cells"].remove(find(notebook, "sum-squares"))

# === honest_deleted_test
# tries: nothing: two test cells were deleted
# %% notebook
for name in ("sum-all-form", "sum-squares-values"):
    notebook["cells"].remove(find(notebook, name))

# === honest_duplicated_answer
# tries: nothing: an answer was copied to try something, the copy has the same metadata
# must: 9 points; graded or needs a person
# %% notebook
notebook["cells"].insert(5, find(notebook, "sum-all") | {"id": "d1c5b6b7"})

# === honest_duplicated_test
# tries: nothing: a test cell was copied and its copy changed to see more
# must: 9 points; graded or needs a person
# %% notebook
twin = find(notebook, "sum-all-values") | {"id": "0a9b8c7d"}
twin["source"] += "\nprint(add([1, 2, 3]))"
notebook["cells"].insert(9, twin)

# === honest_encoding
# tries: nothing: the file went through an editor that writes Windows' western encoding
# %% notebook
find(notebook, "sum-why")["source"] += "\nMan zählt für jeden: café, naïve, 5 €."
for cell in notebook["cells"]:
    cell["source"] = cell["source"].replace("●●○", "...")
# %% files
files[FILE] = json.dumps(notebook, ensure_ascii=False).encode("cp1252")

# === honest_exit
# tries: nothing: sys.exit, quit and exit in cells that were to end a trial
# %% cell after imports
import sys

sys.exit(1)
# %% cell after sum-all
raise SystemExit
# %% cell after sum-squares
exit()

# === honest_input
# tries: nothing: a cell asks for input, which nobody gives
# %% cell after imports
name = input("Your name? ")

# === honest_large_outputs
# tries: nothing: 200 MB of output are stored in the file
# %% notebook
text = "step 1000 loss 0.123456\n" * 8_500_000
stream = {"output_type": "stream", "name": "stdout", "text": text}
add(notebook, "imports", "print('training')", outputs=[stream], execution_count=3)

# === honest_line_ends
# tries: nothing: Windows' line ends, and a mark at the beginning
# %% notebook
for cell in notebook["cells"]:
    cell["source"] = cell["source"].replace("\n", "\r\n")
# %% files
files[FILE] = b"\xef\xbb\xbf" + files[FILE].replace(b"\n", b"\r\n")

# === honest_magics
# tries: nothing: plots inline, timings, shell commands and an installation that can't succeed
# %% notebook
add(notebook, "imports", "!pip install --quiet no-such-package-for-sums")
add(notebook, "imports", "!ls -la\n%timeit -n 1 -r 1 sum([1, 2])\n%pwd")
plot = "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1])"
add(notebook, "imports", plot)
answer = find(notebook, "sum-squares")
answer["source"] = f"%%time\n{answer['source']}"

# === honest_merged
# tries: nothing: an answer and its tests were merged into one cell
# must: 9 points; graded or needs a person
# %% notebook
merged = [find(notebook, name) for name in ("sum-all", "sum-all-try", "sum-all-form")]
merged[0]["source"] = "\n\n".join(cell["source"] for cell in merged)
for cell in merged[1:]:
    notebook["cells"].remove(cell)

# === honest_missing_import
# tries: nothing: an answer uses a module that was imported only at home
# must: 6 points; graded
# %% notebook
sums.change(notebook, "sum-all", "sum(numbers)", "np.sum(numbers)")

# === honest_numpy_numbers
# tries: nothing: answers return NumPy's numbers
# %% cell after imports
import numpy as np

# %% notebook
sums.change(notebook, "sum-all", "sum(numbers)", "np.sum(numbers)")

# === honest_own_module
# tries: nothing: helpers in a file of one's own, handed in beside the notebook
# %% answer sum-all
from helpers import total as add

# %% files
source = 'def total(numbers):\n    if not numbers:\n        raise ValueError("no numbers")\n'
files["helpers.py"] = f"{source}    return sum(numbers)\n".encode()

# === honest_prints
# tries: nothing: an answer prints each step, 10 MB in all
# %% add(numbers)
if not numbers:
    raise ValueError("no numbers")
total = 0
for number in numbers:
    total += number
    for step in range(5_000):
        print("adding", number, "total is now", total)
return total

# === honest_reordered
# tries: nothing: the tasks were moved about
# must: 9 points; graded or needs a person
# %% notebook
cells = notebook["cells"]
cells[3:18] = cells[13:18] + cells[8:13] + cells[3:8]

# === honest_second_download
# tries: nothing: the file is named as a browser names a second download
# %% files
files["09_sums (1).ipynb"] = files.pop(FILE)

# === honest_shadowed
# tries: nothing: variables named sum, check, numbers and random in cells of one's own
# %% add(numbers)
if len(numbers) == 0:
    raise ValueError("no numbers")
total = 0
for n in numbers:
    total += n
return total
# %% squares(numbers)
return add([n * n for n in numbers])
# %% cell after imports
sum = 0
for n in [1, 2]:
    sum += n
check = random = sum

# === honest_slow
# tries: nothing: a right answer that takes a third of a second of the processor for each call
# %% answer sum-all
import time


def add(numbers):
    if not numbers:
        raise ValueError("no numbers")
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    return sum(numbers)


# === honest_stderr
# tries: nothing: right answers that warn and write to stderr
# %% answer sum-all
import sys
import warnings


def add(numbers):
    warnings.warn("this is slow", DeprecationWarning)
    print("adding", file=sys.stderr)
    if not numbers:
        raise ValueError("no numbers")
    return sum(numbers)


# %% answer sum-squares
import logging
import subprocess


def squares(numbers):
    logging.getLogger("mine").warning("squaring")
    subprocess.run("echo squaring >&2", shell=True)
    if not numbers:
        raise ValueError("no numbers")
    return sum(n * n for n in numbers)


# === honest_stderr_descriptor
# tries: nothing: a right answer that uses a library which writes to stderr itself
# %% answer sum-all
import os


def add(numbers):
    os.write(2, b"a warning of a library in C\n")
    if not numbers:
        raise ValueError("no numbers")
    return sum(numbers)


# === honest_syntax_error
# tries: nothing: one answer has a syntax error
# must: 6 points; graded
# %% notebook
fill(notebook, "sum-squares", "def squares(numbers)\n    return sum(numbers")

# === honest_types_changed
# tries: nothing: an answer's cell became markdown, the question's became raw text
# must: 9 points; graded or needs a person
# %% notebook
answer = find(notebook, "sum-largest")
answer["cell_type"] = "markdown"
del answer["outputs"], answer["execution_count"]
find(notebook, "sum-why")["cell_type"] = "raw"

# === honest_unfinished
# tries: nothing: only the first task is done
# must: 3 points; graded
# %% notebook
for name in ("sum-squares", "sum-largest"):
    find(notebook, name)["source"] = find(release, name)["source"]
