"""Broken notebooks."""
# must: no point; ungradable

# === notebook_binary
# tries: a picture under the notebook's name
# %% files
files[FILE] = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 100

# === notebook_bomb
# tries: 50 MB of small lists, which take 2 GB where they are read
# must: no point; ungradable or graded
# %% files
wide = b'"metadata": {"wide": [' + b"[]," * 16_000_000 + b"[]], "
files[FILE] = files[FILE].replace(b'"metadata": {\n  "', wide + b'"', 1)

# === notebook_cells_object
# tries: cells that aren't a list
# %% notebook
notebook["cells"] = {"0": notebook["cells"]}

# === notebook_cells_odd
# tries: cells that are numbers, texts and lists, and cells without a type or a source
# must: no point; graded or needs a person or ungradable
# %% notebook
notebook["cells"][3:3] = [42, "cell", [], None, {}, {"cell_type": "code"}, {"source": "1"}]

# === notebook_deep
# tries: lists in lists in the metadata, 100,000 deep
# must: no point; ungradable or graded
# %% files
deep = b'"metadata": {"deep": ' + b"[" * 100_000 + b"]" * 100_000 + b", "
files[FILE] = files[FILE].replace(b'"metadata": {\n  "', deep + b'"', 1)

# === notebook_duplicate_keys
# tries: JSON whose keys are there twice: one reader sees the first, another the last
# must: no point; graded or needs a person or ungradable
# %% files
files[FILE] = files[FILE][:-1] + b', "cells": [], "nbformat": 4}'

# === notebook_empty
# tries: an empty file
# %% files
files[FILE] = b""

# === notebook_future
# tries: a notebook of format 5
# must: no point; ungradable or graded or needs a person
# %% notebook
notebook |= {"nbformat": 5, "nbformat_minor": 99}

# === notebook_kernel
# tries: the name of a kernel that isn't there
# must: no point; graded
# %% notebook
kernel = {"name": "hostile", "display_name": "x", "language": "R"}
notebook["metadata"] |= {"kernelspec": kernel, "language_info": {"name": "R"}}

# === notebook_kernel_path
# tries: the name of a kernel that is a path, to a kernel of its own beside the notebook
# must: no point; graded
# %% notebook
notebook["metadata"]["kernelspec"] = {"name": "../09_sums/kernels/own", "display_name": "x"}
# %% files
kernel = {"argv": ["touch", "/tmp/escaped-kernel"], "display_name": "x", "language": "python"}
files["kernels/own/kernel.json"] = json.dumps(kernel).encode()

# === notebook_long_ids
# tries: ids of 1 MB, empty ones, and the same one for every cell
# must: no point; graded or needs a person
# %% notebook
odd = itertools.cycle(["x" * 1_000_000, "", "same", "same", "a b/../c", "\u202e"])
for cell in notebook["cells"]:
    cell["id"] = next(odd)

# === notebook_long_source
# tries: cells of 12 MB together
# %% notebook
for _ in range(4):
    add(notebook, "setup", "# comment\n" * 300_000)

# === notebook_many_cells
# tries: 20,000 cells
# must: no point; ungradable or graded
# %% notebook
cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": "1"}
notebook["cells"] += [cell | {"id": f"own-{number}"} for number in range(20_000)]

# === notebook_merge_conflict
# tries: nothing: git has written the marks of a conflict into the file
# %% files
files[FILE] = files[FILE].replace(b'"cells": [', b'<<<<<<< HEAD\n "cells": [', 1)

# === notebook_number
# tries: JSON that is no notebook: a number
# %% files
files[FILE] = b"42"

# === notebook_pasted
# tries: all cells 50 times, with the same ids and metadata
# must: no point; graded or needs a person
# %% notebook
notebook["cells"] *= 50

# === notebook_schema
# tries: nbgrader metadata of version 99
# must: no point; graded
# %% notebook
for data in filter(None, map(marks, notebook["cells"])):
    data["schema_version"] = 99

# === notebook_schema_odd
# tries: nbgrader metadata of other types: lists, texts, nulls
# must: no point; graded or needs a person
# %% notebook
odd = itertools.cycle([[], "x", None, {"schema_version": "3"}, {"grade_id": ["x"]}, 1e999])
for cell in filter(marks, notebook["cells"]):
    cell["metadata"]["nbgrader"] = next(odd)

# === notebook_sources_odd
# tries: sources that are numbers, lists of lists, or nothing
# must: no point; graded or needs a person or ungradable
# %% notebook
odd = itertools.cycle([42, [["x"]], None, {"a": 1}, [1, 2]])
for cell in notebook["cells"]:
    cell["source"] = next(odd)

# === notebook_surrogates
# tries: text in the notebook that has no UTF-8: in sources, ids, metadata, outputs and file names
# must: no point; graded or needs a person or ungradable
# %% notebook
odd = {"tags": ["\udfff"], "\ud801": "\ud801"}
add(notebook, "setup", "print('\ud800')", metadata=odd)
find(notebook, "sum-why")["source"] += "\nwords \ud800 and \x00 more"
fill(notebook, "sum-all", "def add(numbers):\n    return '\udcff'")
notebook["metadata"]["title"] = "\ud800"
# %% files
files["\udcff.txt"] = b"mine"

# === notebook_truncated
# tries: a notebook that ends in the middle
# %% files
files[FILE] = files[FILE][:3000]

# === notebook_web_page
# tries: nothing: the page of a website that shows the notebook, saved under the notebook's name
# must: no point; ungradable; says web page
# %% files
files[FILE] = b"<!DOCTYPE html>\n<html><head><title>09_sums.ipynb at main</title></head></html>"
