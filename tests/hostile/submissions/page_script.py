# tries: scripts in the feedback page: by markdown, outputs, messages, ids and attachments
# must: no point; graded
def submission(release):
    from tests.hostile import corpus

    script = "<script>hostile-script()</script><img src=x onerror='hostile-script()'>"
    html = {"output_type": "display_data", "metadata": {}, "data": {"text/html": script}}
    corpus.add(release, "setup", RUN)
    stored = {"outputs": [html], "execution_count": 1}
    corpus.add(release, "setup", "pass", **stored)
    note = {"cell_type": "markdown", "id": "note", "metadata": {}, "source": f"# Note\n{script}"}
    release["cells"].insert(3, note)
    release["cells"].insert(3, {"cell_type": "raw", "id": "raw", "metadata": {}, "source": script})
    corpus.find(release, "sum-why")["source"] += f"\n{script}\n[a](javascript:hostile-script())"
    return {"09_sums.ipynb": corpus.dump(release)}


RUN = """\
from IPython.display import HTML, Javascript, SVG, display
display(HTML("<script>hostile-script()</script>"), Javascript("hostile-script()"))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg'><script>hostile-script()</script></svg>"))
display({"text/markdown": "<script>hostile-script()</script>"}, raw=True)
display({"text/latex": "$</script><script>hostile-script()</script>$"}, raw=True)
print("</pre><script>hostile-script()</script>")
raise ValueError("</pre><script>hostile-script()</script>")
"""
