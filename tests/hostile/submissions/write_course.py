# tries: to change the course's solutions, releases and settings, which the grader runs
# must: no point; graded
# %% cell after setup
import glob

for depth in range(1, 8):
    up = "../" * depth
    for path in glob.glob(f"{up}nbgrader_config.py"):
        with open(path, "a") as settings:
            settings.write("\nopen('/tmp/escaped-settings', 'w').write('the grader ran this')\n")
    for path in glob.glob(f"{up}exercises/*/*.ipynb") + glob.glob(f"{up}solutions/*/*.ipynb"):
        with open(path, "a") as notebook:
            notebook.write(" ")
