# tries: an error of 11 MB of empty lines, for each cell: ten times as much where it is written
# must: no point; graded or needs a person
# %% answer sum-all
import gc

channel = next(i for i in gc.get_objects() if type(i).__name__ == "Channel" and hasattr(i, "send"))
channel.send("error", b"\n" * 11_000_000, ename="x", evalue="x")

# %% cell after sum-all
channel.send("error", b"\n" * 11_000_000, ename="x", evalue="x")

# %% cell after sum-squares
channel.send("error", b"\n" * 11_000_000, ename="x", evalue="x")
