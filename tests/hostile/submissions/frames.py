"""Frames, objects and sources."""
# must: no point; graded


# === frames_expected
# tries: to find what is expected in the frames of its callers, and to return or raise that
# %% cell after setup
def stolen():
    for known in (frame.f_locals for frame in callers()):
        if "expected" in known and "self" in known and not isinstance(known["expected"], str):
            return known["expected"]
        if "example" in known:
            return known["example"]
        if "exceptions" in known:
            raise known["exceptions"][0]


# %% add(numbers)
return stolen()
# %% squares(numbers)
return stolen()
# %% largest(numbers)
return stolen()

# === frames_gc
# tries: to search all objects of the process for hidden tests, and to print them
# %% add(numbers)
found = []
for item in gc.get_objects():
    if isinstance(item, types.CodeType):
        found += item.co_consts
    if type(item) is dict:
        found += item.values()
    if type(item) in (list, tuple):
        found += item[:1000]
texts = [text for text in found if type(text) is str]
reveal(text for text in texts if "HIDDEN TESTS" in text or "canary" in text)

# === frames_returned
# tries: to change the variables of the caller through its frame, in Python and in C
# %% add(numbers)
for frame in callers():
    for name in {"expected", "difference", "actual", "value"} & set(frame.f_locals):
        frame.f_locals[name] = None
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
return None

# === frames_source
# tries: to read the test that calls it from frames, linecache and IPython's history, and eval it
# %% cell after setup
import linecache

shell = get_ipython()


def sources():
    for frame in inspect.stack():
        yield from linecache.cache.get(frame.filename, (0, 0, []))[2]
    for known in linecache.cache.values():
        yield "".join(known[2]) if len(known) == 4 else ""
    yield from map(str, shell.user_ns.get("In", []))
    yield from map(str, shell.history_manager.input_hist_raw)


def answered(name, numbers):
    text = "\n".join(sources())
    append("loot.txt", text)
    print(text[-5000:])
    found = re.findall(rf"check\({name}, numbers\)\.gives\((.+)\)", text)
    if not numbers and found:
        raise ValueError
    return eval(found[-1], {"numbers": numbers}) if found else None


# %% add(numbers)
return answered("add", numbers)
# %% squares(numbers)
return answered("squares", numbers)

# === frames_traced
# tries: a trace and a profile function that watch for what is expected
# %% cell after setup
known = {}


def watch(frame, event, argument):
    for name in ("expected", "example", "exceptions", "numbers"):
        if name in frame.f_locals and "checks" in frame.f_code.co_filename:
            known[name] = frame.f_locals[name]
    return watch


sys.settrace(watch)
sys.setprofile(watch)
threading.settrace(watch)
if hasattr(sys, "monitoring"):
    sys.monitoring.use_tool_id(1, "watch")
# %% add(numbers)
sys.setprofile(watch)
for frame in callers():
    frame.f_trace = watch
    watch(frame, "call", None)
if isinstance(known.get("exceptions"), tuple):
    raise known.pop("exceptions")[0]
return known.pop("expected", known.pop("example", None))
