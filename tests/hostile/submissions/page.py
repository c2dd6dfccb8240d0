"""Scripts in feedback pages."""
# must: no point; graded

# === page_attachments
# tries: attachments that are scripts, and a name that ends the attribute of a picture
# %% notebook
script = "<script>hostile-script()</script>"
names = {"a.png": "text/html", "b.svg": "image/svg+xml", "' onerror='hostile-script()": "image/png"}
cell = find(notebook, "sum-why")
cell["attachments"] = {name: {kind: f"<svg>{script}</svg>"} for name, kind in names.items()}
cell["source"] += "".join(f"\n![{script}](attachment:{name})" for name in names)

# === page_forged
# tries: a feedback page that shows other points, by styles and elements laid over them
# %% cell after setup
from IPython.display import HTML, display

display(HTML("<div style='position:fixed;top:0;left:0;background:white'>Score: 12.0 / 12.0</div>"))
display(HTML("<style>*{display:none}body:before{content:'Score: 12.0 / 12.0'}</style>"))
display(HTML("<iframe src='http://127.0.0.1:47113'></iframe><form action='http://127.0.0.1'>"))
display(HTML("<meta http-equiv='refresh' content='0;url=http://127.0.0.1:47113'>"))

# === page_hidden_inputs
# tries: to show the inputs of hidden tests in the feedback. The message of a failed check shows the
#     call, so only what an answer prints and displays is looked for
# %% add(numbers)
if numbers not in ([], [1, 2], [1, 2, 3], [3, 4, 5]):
    print("hidden-input", numbers)
    print("hidden-input", numbers, file=sys.stderr)
    raise RuntimeError
return sum(numbers)

# === page_script
# tries: scripts in the feedback page: by markdown, outputs, messages, ids and attachments
# %% cell after setup
from IPython.display import HTML, Javascript, SVG, display

display(HTML("<script>hostile-script()</script>"), Javascript("hostile-script()"))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg'><script>hostile-script()</script></svg>"))
display({"text/markdown": "<script>hostile-script()</script>"}, raw=True)
display({"text/latex": "$</script><script>hostile-script()</script>$"}, raw=True)
print("</pre><script>hostile-script()</script>")
raise ValueError("</pre><script>hostile-script()</script>")
# %% notebook
script = "<script>hostile-script()</script><img src=x onerror='hostile-script()'>"
html = {"output_type": "display_data", "metadata": {}, "data": {"text/html": script}}
add(notebook, "setup", "pass", outputs=[html], execution_count=1)
note = {"cell_type": "markdown", "id": "note", "metadata": {}, "source": f"# Note\n{script}"}
raw = {"cell_type": "raw", "id": "raw", "metadata": {}, "source": script}
notebook["cells"][3:3] = [raw, note]
find(notebook, "sum-why")["source"] += f"\n{script}\n[a](javascript:hostile-script())"
