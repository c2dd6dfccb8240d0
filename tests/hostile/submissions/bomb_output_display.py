# tries: 100,000 displays, of pictures, pages and forms that nobody knows
# must: no point; graded or needs a person
# %% cell after setup
from IPython.display import HTML, display

for number in range(100_000):
    display(HTML("<p>" + "x" * 1000))
    display({f"application/x-{number}": "x", "image/png": "AAAA" * 100}, raw=True)
