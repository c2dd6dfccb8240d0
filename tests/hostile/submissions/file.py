"""Unusual files and folders."""
# must: no point; graded or needs a person or ungradable

# === file_attempt_appended
# tries: to look like the attempt below: its other file's digests are appended to the notebook
# must: no point; graded or ungradable
# %% files
import hashlib

digests = [hashlib.sha256(data).digest() for data in (b"helpers.py", b"x = 1")]
files[FILE] += b"".join(digests)

# === file_attempt_beside
# tries: to look like the attempt above: a notebook and another file
# must: no point; needs a person; says helpers.py
# %% files
files["helpers.py"] = b"x = 1"

# === file_broken_and_copy
# tries: nothing: the notebook is damaged, and a finished copy lies beside it
# must: at most 9 points; needs a person or ungradable; says 09_sums
# from: solution
# %% files
files |= {"09_sums-Copy1.ipynb": files[FILE], FILE: files[FILE][:3000]}

# === file_clash
# tries: files beside the notebook with the names of the grader's own, and of folders in its way
# %% files
names = ["work/x", "record.json", "09_sums/09_sums.ipynb", "autograded/x", ".part"]
files |= dict.fromkeys([*names, "file/" * 60 + "x"], b"mine")

# === file_copy_finished
# tries: nothing: the notebook is untouched, and the answers are in a copy beside it
# must: at most 9 points; graded or needs a person; says Copy1
# from: solution
# %% files
files |= {"09_sums-Copy1.ipynb": files[FILE], FILE: dump(release)}

# === file_deep_folders
# tries: 1,500 folders, each in the other, beside the notebook
# %% files
files["a/" * 1500 + "b"] = b"deep"

# === file_fifo
# tries: a notebook that is a pipe, which nobody ever writes to
# must: no point; ungradable
# %% files
files[FILE] = Link(kind="fifo")

# === file_fifo_beside
# tries: a pipe beside the notebook, for whoever copies the folder
# %% files
files["data.txt"] = Link(kind="fifo")

# === file_folder
# tries: a folder in the place of the notebook
# must: no point; ungradable
# %% files
files["09_sums.ipynb/09_sums.ipynb"] = b"{}"
del files[FILE]

# === file_large_beside
# tries: 150 MB beside the notebook, in one file, and a thousand small ones
# %% files
files["data.bin"] = bytes(150_000_000)
files |= {f"data/{n}/{n}.txt": b"x" * 1000 for n in range(1000)}

# === file_link_beside
# tries: links beside the notebook: to the gradebook, to keys, to /, and to themselves
# %% cell after imports
for path in glob.glob("*.txt"):
    print(path, content(path))
# %% files
files["shadow.txt"] = Link("/etc/shadow")
files["book.txt"] = Link("../../../gradebook.db")
files["notes.txt"] = Link("/home/grader/notes.txt")
files["solution.txt"] = Link("../../../solutions/09_sums/09_sums.ipynb")
files["root"] = Link("/")
files["self"] = Link("self")

# === file_link_folder
# tries: a folder that is a link to another student's
# must: no point; ungradable; says link
# %% files
files["."] = Link("../student01/09_sums")
del files[FILE]

# === file_link_gradebook
# tries: a notebook that is a link to the gradebook
# must: no point; ungradable; says link
# %% files
files[FILE] = Link("../../../gradebook.db")

# === file_link_shadow
# tries: a notebook that is a link to /etc/shadow
# must: no point; ungradable; says link
# %% files
files[FILE] = Link("/etc/shadow")

# === file_link_solution
# tries: a notebook that is a link to the solution
# must: no point; ungradable; says link
# %% files
files[FILE] = Link("../../../solutions/09_sums/09_sums.ipynb")

# === file_link_student
# tries: a hard link to another student's notebook, which must not be refused for it
# must: at most 9 points; graded or needs a person or ungradable
# %% files
files[FILE] = Link("../../student01/09_sums/09_sums.ipynb", "hard")

# === file_modules
# tries: modules in its folder in the place of course_utils, random, math and json
# %% files
passing = b"""\
class Passing:
    def __getattr__(self, name):
        return lambda *a, **k: self
def check(*args, **kwargs):
    return Passing()
"""
names = ["random.py", "course_utils/__init__.py", "course_utils/exercise/checks.py"]
names += ["sitecustomize.py", "usercustomize.py", "nbgrader_config.py", "jupyter_config.py"]
files |= dict.fromkeys([*names, "ipykernel_config.py"], passing)

# === file_names
# tries: files with odd names beside the notebook: breaks, codes, options, bytes that aren't UTF-8
# %% files
names = ["-rf", "a\nb", "$(touch escaped-name)", "; touch escaped-name", "\x1b[2J", "'\"", "~"]
names += ["x" * 255, "<script>hostile-script()<", "\udcff\udcfe", "\u202etxt.exe", "*"]
files |= dict.fromkeys(names, b"odd")

# === file_notebooks_beside
# tries: 30 other notebooks, whose JSON is nested deeply or never ends
# %% files
files |= {f"{n}.ipynb": b'{"cells": ' + b"[" * 2_000_000 for n in range(30)}

# === file_nothing
# tries: a folder without a notebook
# must: no point; ungradable
# %% files
files["answers.docx"] = b"PK\x03\x04 my answers"
del files[FILE]

# === file_settings
# tries: settings of Jupyter and nbgrader in its folder, which the grader would run
# %% files
run = b"open('/tmp/escaped-settings', 'w').write('the grader ran this')\n"
names = ["nbgrader_config.py", "jupyter_config.py", "jupyter_nbconvert_config.py", "conftest.py"]
names += [".ipython/profile_default/startup/00.py", "templates/feedback.html.j2"]
files |= dict.fromkeys(names, run)

# === file_sparse_beside
# tries: files of 10 GB beside the notebook, which take no room on the disk
# %% files
files |= {f"data{n}.bin": Link(str(10**10), "sparse") for n in range(8)}

# === file_sparse_notebook
# tries: a notebook that is followed by 10 GB of nothing, which take no room on the disk
# must: no point; ungradable
# %% files
files[FILE] = Link(str(10**10), "sparse")

# === file_timestamp
# tries: a timestamp.txt that isn't a time, but 10 MB and an expression
# must: no point; graded or needs a person
# %% files
odd = b"2999-01-01 00:00:00 UTC; __import__('os').system('touch /tmp/escaped-time')\n"
files["timestamp.txt"] = odd + b"x" * 10_000_000

# === file_timestamp_odd
# tries: a timestamp.txt at the end of time, which has no equal in UTC
# %% files
files["timestamp.txt"] = b"9999-12-31 23:59:59.999999 -23:59"

# === file_zip
# tries: a zip archive under the notebook's name, with paths that lead out of the folder
# must: no point; ungradable; says zip
# %% files
import io
import zipfile

packed = io.BytesIO()
with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("../../../escaped-zip", "out")
    archive.writestr("/tmp/escaped-zip", "out")
    archive.writestr("09_sums.ipynb", bytes(50_000_000))
files[FILE] = files["more.zip"] = packed.getvalue()
