# tries: to hand in what another student has handed in
# must: no point; graded
# %% cell after imports
import glob
import json

for depth in range(1, 8):
    for folder in ("submitted", "autograded"):
        for path in glob.glob("../" * depth + f"{folder}/student0[13]/09_sums/*.ipynb"):
            text = open(path).read()
            open("loot.txt", "a").write(text)
            print(text)
            stolen = {c["id"]: "".join(c["source"]) for c in json.loads(text)["cells"]}


# %% cell before sum-all-form
exec(stolen["sum-all"])

# %% cell before sum-squares-form
exec(stolen["sum-squares"])

# %% cell before sum-largest-form
exec(stolen["sum-largest"])
