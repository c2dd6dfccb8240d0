# tries: the name of a kernel that is a path, to a kernel of its own beside the notebook
# must: no point; graded
def submission(release):
    import json

    from tests.hostile import corpus

    release["metadata"]["kernelspec"] = {"name": "../09_sums/kernels/own", "display_name": "x"}
    argv = ["touch", "/tmp/escaped-kernel"]
    own = json.dumps({"argv": argv, "display_name": "x", "language": "python"}).encode()
    return {"09_sums.ipynb": corpus.dump(release), "kernels/own/kernel.json": own}
