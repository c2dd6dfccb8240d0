# tries: nothing: the file went through an editor that writes Windows' western encoding
# must: 9 points; graded
def submission(release):
    import json

    from tests.hostile import corpus

    notebook = corpus.right(release)
    corpus.find(notebook, "sum-why")["source"] += "\nMan zählt für jeden: café, naïve, 5 €."
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].replace("●●○", "...")
    return {"09_sums.ipynb": json.dumps(notebook, ensure_ascii=False).encode("cp1252")}
