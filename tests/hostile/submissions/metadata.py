"""Forged metadata."""
# must: no point; graded

# === metadata_answer_graded
# tries: an answer whose metadata says that it is graded as well, and ends in a number
# must: no point; graded or needs a person
# %% notebook
cell = find(notebook, "sum-all")
marks(cell).update(grade=True, points=100)
cell["source"] += "\n100"

# === metadata_comments
# tries: cells of its own that are tests by their comments, and end in a number: partial credit
# must: no point; graded or needs a person
# %% notebook
for cell in checks(notebook):
    add(notebook, "sum-why", f"# grade_id: {cell['id']} (3 points)\n3")

# === metadata_new_cells
# tries: graded cells that the assignment doesn't have, worth 50 points each
# %% notebook
for number in range(3):
    data = {"grade": True, "grade_id": f"bonus-{number}", "locked": True, "points": 50}
    data |= {"schema_version": 3, "solution": False, "task": False}
    add(notebook, "setup", "assert True", metadata={"nbgrader": data})

# === metadata_outputs
# tries: stored outputs that say that the tests have passed, and cells marked not to be run
# %% notebook
number = {"output_type": "execute_result", "execution_count": 1, "metadata": {}}
number["data"] = {"text/plain": "3"}
for cell in notebook["cells"]:
    if cell["cell_type"] == "code":
        cell |= {"outputs": [number], "execution_count": 1}
        cell["metadata"] |= {"tags": ["skip-execution", "raises-exception", "remove-cell"]}
        cell["metadata"] |= {"editable": False, "frozen": True, "init_cell": True}

# === metadata_own_cells
# tries: cells of its own with the ids of tests, whose last line is a number: partial credit
# must: no point; graded or needs a person
# %% notebook
for cell in checks(notebook):
    add(notebook, "sum-why", "100", metadata={"nbgrader": marks(cell)})

# === metadata_own_first
# tries: the same at the top of the notebook, so that they come before the real tests
# must: no point; graded or needs a person
# %% notebook
for cell in checks(notebook):
    add(notebook, "setup", "3", metadata={"nbgrader": dict(marks(cell))})
    marks(cell).update(grade=False, grade_id=f"{cell['id']}-old", points=0)

# === metadata_points
# tries: a thousand points for each test, by the metadata
# %% notebook
for data in map(marks, notebook["cells"]):
    if "points" in data:
        data["points"] = 1000

# === metadata_question
# tries: points for the question that a person grades: its cell turned into code that prints 3
# must: no point; graded or needs a person
# %% notebook
cell = find(notebook, "sum-why")
cell |= {"cell_type": "code", "source": "3", "outputs": [], "execution_count": None}
marks(cell).update(solution=False, locked=True)

# === metadata_removed
# tries: the tests replaced by markdown, their metadata kept
# %% notebook
for cell in checks(notebook):
    cell["cell_type"] = "markdown"
    del cell["outputs"], cell["execution_count"]

# === metadata_settings
# tries: the notebook's metadata set nbconvert, Jupyter, and the withheld modules of the course
# assignment: 08_tensors
# %% rank_even(d_in, d_out)
import course_utils.lora as lora

return lora.break_even_rank(d_in, d_out)
# %% notebook
argv = ["touch", "/tmp/escaped-argv"]
notebook["metadata"] |= {
    "qlora_course": {"withheld": [], "points": 100, "timeout": 1e9},
    "kernelspec": {"name": "python3", "display_name": "x", "argv": argv},
    "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}},
    "celltoolbar": "Create Assignment",
    "nbgrader": {"points": 100},
}

# === metadata_similar_ids
# tries: ids that look like those of the tests, on cells that pass
# must: no point; graded or needs a person
# %% notebook
for cell in checks(notebook):
    twin = {"nbgrader": marks(cell) | {"grade_id": f"{cell['id']}\u200b"}}
    add(notebook, cell["id"], "3", before=True, metadata=twin)

# === metadata_swapped
# tries: ids of the easy test on the hard ones, and of the tests on the answers
# must: at most 1 point; graded or needs a person
# %% add(numbers)
raise ValueError
# %% notebook
names = {"sum-all-values": "sum-all-form", "sum-all-form": "sum-all-values"}
names["sum-squares"] = "sum-all"
for cell in notebook["cells"]:
    if cell["id"] in names:
        cell["id"] = marks(cell)["grade_id"] = names[cell["id"]]

# === metadata_task
# tries: every cell made a task that a person grades
# must: no point; graded or needs a person
# %% notebook
for data in filter(None, map(marks, notebook["cells"])):
    data |= {"task": True, "grade": False, "solution": False, "points": 100}

# === metadata_tests_changed
# tries: tests that print their points instead of checking, metadata untouched
# %% test sum-all-form
1
# %% test sum-all-values
2
# %% test sum-squares-values
print("passed")
# %% test sum-largest-values
import course_utils.exercise.checks

course_utils.exercise.checks.check = None

# === metadata_unlocked
# tries: tests that are unlocked and whose source is replaced by nothing
# %% notebook
for cell in checks(notebook):
    marks(cell).update(locked=False, solution=True)
    cell["source"] = "pass"
