"""Honest accidents."""
# must: 9 points; graded
# from: solution

# === honest_answer_below
# tries: nothing: the answer is in a new cell below the stub
# must: 9 points; graded or needs a person
# %% notebook
answer = find(notebook, "sum-all")
add(notebook, "sum-all", answer["source"].partition("\n")[2])
answer["source"] = find(release, "sum-all")["source"]

# === honest_answer_in_check
# tries: nothing: an answer was written into the cell of its first check
# must: 8 points; needs a person
# %% notebook
check = find(notebook, "sum-all-form")
check["source"] += "\n" + find(notebook, "sum-all")["source"].partition("\n")[2]
find(notebook, "sum-all")["source"] = find(release, "sum-all")["source"]

# === honest_attached_pictures
# tries: nothing: 80 MB of photos are attached to an answer
# %% notebook
photos = {f"{n}.png": {"image/png": "iVBORw0KGgoA" + "A" * 10_000_000} for n in range(8)}
find(notebook, "sum-why")["attachments"] = photos

# === honest_await
# tries: nothing: await at the top of a cell, and answers that use threads and processes
# %% cell after imports
import asyncio

await asyncio.sleep(0)
# %% inside sum-all
from concurrent.futures import ThreadPoolExecutor

with ThreadPoolExecutor(2) as pool:
    return sum(pool.map(int, numbers))
# %% cell before sum-squares
import multiprocessing


def square(n):
    return n * n


# %% inside sum-squares
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

# === honest_drive
# tries: nothing: Colab's drive, a folder and a file that only the student has
# %% notebook
add(notebook, "imports", "from google.colab import drive\ndrive.mount('/content/drive')")
add(notebook, "imports", "%cd /content/drive/MyDrive")
add(notebook, "imports", "text = open('numbers.txt').read()\n!nvidia-smi")

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

# === honest_endless_trial
# tries: nothing: a trial that the student had to interrupt
# must: 9 points; graded or needs a person
# %% cell after imports
while True:
    pass

# === honest_exit
# tries: nothing: sys.exit, quit and exit in cells that were to end a trial
# %% cell after imports
import sys

sys.exit(1)
# %% cell after sum-all
raise SystemExit
# %% cell after sum-squares
exit()

# === honest_in_folder
# tries: nothing: the notebook is in a folder, as in an archive that was unpacked
# must: 9 points; graded or needs a person
# %% files
files["my work/09_sums.ipynb"] = files.pop(FILE)

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
# %% inside sum-all
return np.sum(numbers)

# === honest_numpy_numbers
# tries: nothing: answers return NumPy's numbers
# %% inside sum-all
import numpy as np

return np.sum(numbers)

# === honest_own_module
# tries: nothing: helpers in a file of one's own, handed in beside the notebook
# %% answer sum-all
from helpers import total as add

# %% files
source = 'def total(numbers):\n    if not numbers:\n        raise ValueError("no numbers")\n'
files["helpers.py"] = f"{source}    return sum(numbers)\n".encode()

# === honest_pasted_release
# tries: nothing: the cells of the released notebook were pasted below the answers
# must: 9 points; graded or needs a person
# %% notebook
notebook["cells"] += release["cells"]

# === honest_prints
# tries: nothing: an answer prints each step, 10 MB in all
# %% inside sum-all
for number in numbers:
    for step in range(5_000):
        print("adding", number, "in step", step)

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
# %% inside sum-all
import time

until = time.process_time() + 0.3
while time.process_time() < until:
    pass

# === honest_split_answer
# tries: nothing: an answer was split into two cells, which have the same metadata
# must: 9 points; graded or needs a person
# %% notebook
answer = find(notebook, "sum-all")
first, middle, second = answer["source"].partition("def add")
twin = answer | {"id": "5b1c2d3e", "source": middle + second}
answer["source"] = first + "import math"
notebook["cells"].insert(notebook["cells"].index(answer) + 1, twin)

# === honest_stderr
# tries: nothing: right answers that warn and write to stderr
# %% inside sum-all
import sys
import warnings

warnings.warn("this is slow", DeprecationWarning)
print("adding", file=sys.stderr)
# %% inside sum-squares
import logging
import subprocess

logging.getLogger("mine").warning("squaring")
subprocess.run("echo squaring >&2", shell=True)

# === honest_stderr_descriptor
# tries: nothing: a right answer that uses a library which writes to stderr itself
# %% inside sum-all
import os

os.write(2, b"a warning of a library in C\n")

# === honest_syntax_error
# tries: nothing: one answer has a syntax error
# must: 6 points; graded
# %% notebook
fill(notebook, "sum-squares", "def squares(numbers)\n    return sum(numbers")

# === honest_title
# tries: nothing: Colab has put an empty title above an answer
# %% notebook
answer = find(notebook, "sum-all")
answer["source"] = f"# @title\n{answer['source']}"

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

# === honest_upper_case
# tries: nothing: the file's name is in upper case, as an old program writes it
# %% files
files["09_SUMS.IPYNB"] = files.pop(FILE)

# === honest_written_module
# tries: nothing: a cell writes a module, which an answer imports
# must: 9 points; graded or needs a person
# %% notebook
answer = find(notebook, "sum-all")
add(notebook, "imports", "%%writefile totals.py\n" + answer["source"].partition("\n")[2])
answer["source"] = f"{answer['source'].splitlines()[0]}\nfrom totals import add"
