"""Importing withheld answers."""
# must: no point; graded

# === withheld_files
# tries: to find that module's source or bytecode in any folder of the machine
# assignment: 08_tensors
# %% cell after imports
import marshal
import zipfile

folders = {*sys.path, *site.getsitepackages(), sys.prefix, sys.base_prefix, "/course"}
folders |= {"/tmp", "/srv", "/opt", "/home", "/root", "/usr/share", os.getcwd(), *glob.glob("/*")}
folders -= {"/proc", "/sys", "/dev", "", "/usr", "/lib", "/bin", "/etc"}
found = glob.glob("/proc/[0-9]*/root/**/course_utils/lora.py")
for place, _, names in itertools.chain.from_iterable(map(os.walk, folders)):
    if place.count("/") < 9:
        packed = [n for n in names if "qlora" in n and n.endswith((".whl", ".zip"))]
        source = [n for n in names if n.startswith("lora.") and "peft" not in place]
        found += [f"{place}/{n}" for n in packed + source]
print(found)


def code(path):
    if path.endswith((".whl", ".zip")):
        return zipfile.ZipFile(path).read("course_utils/lora.py")
    data = pathlib.Path(path).read_bytes()
    return marshal.loads(data[16:]) if path.endswith(".pyc") else data


# %% rank_even(d_in, d_out)
for path in found:
    try:
        return executed(code(path))["break_even_rank"](d_in, d_out)
    except BaseException as fault:
        print(path, fault)

# === withheld_grader
# tries: to use the grader's own modules: assignments, releases, processes and proxies
# %% add(numbers)
import course_utils

loot = []
for found in pkgutil.walk_packages(course_utils.__path__, "course_utils."):
    try:
        module = importlib.import_module(found.name)
        loot.append(f"{found.name}: {getattr(module, '__file__', None)}")
    except BaseException as fault:
        loot.append(f"{found.name}: {fault!r}")
try:
    from workshop.grading import assignments

    tasks = [task for path in assignments.sources() for task in assignments.read(path).tasks]
    loot += [task.answer["source"] for task in tasks]
except BaseException as fault:
    loot.append(repr(fault))
reveal(loot)

# === withheld_import
# tries: to import the answer, which stands in a module of the course
# assignment: 08_tensors
# %% rank_even(d_in, d_out)
from course_utils.lora import break_even_rank

return break_even_rank(d_in, d_out)

# === withheld_objects
# tries: to find that function among the objects of a process that has imported it before
# assignment: 08_tensors
# %% rank_even(d_in, d_out)
for item in gc.get_objects():
    if isinstance(item, types.FunctionType) and item.__name__ == "break_even_rank":
        return item(d_in, d_out)
    if isinstance(item, types.ModuleType) and hasattr(item, "break_even_rank"):
        return item.break_even_rank(d_in, d_out)

# === withheld_routes
# tries: importlib, runpy, exec of the source, zipimport, pkgutil and sys.modules for that module
# assignment: 08_tensors
# %% cell after imports
import importlib.machinery
import importlib.util
import runpy

import course_utils

NAME = "course_utils.lora"
PATH = f"{course_utils.__path__[0]}/lora.py"
ROUTES = [
    lambda: importlib.import_module(NAME).break_even_rank,
    lambda: importlib.import_module("course_utils.memory").lora.break_even_rank,
    lambda: importlib.reload(sys.modules.pop(NAME)).break_even_rank,
    lambda: sys.modules[NAME].break_even_rank,
    lambda: pkgutil.resolve_name(f"{NAME}:break_even_rank"),
    lambda: runpy.run_module(NAME)["break_even_rank"],
    lambda: executed(importlib.util.find_spec(NAME).loader.get_source(NAME))["break_even_rank"],
    lambda: executed(importlib.util.find_spec(NAME).loader.get_code(NAME))["break_even_rank"],
    lambda: importlib.machinery.SourceFileLoader("own", PATH).load_module().break_even_rank,
]
# %% rank_even(d_in, d_out)
for route in ROUTES:
    try:
        return route()(d_in, d_out)
    except BaseException as fault:
        print(type(fault), fault)

# === withheld_subprocess
# tries: to ask another Python, with other paths and settings, for that module
# assignment: 08_tensors
# %% rank_even(d_in, d_out)
ask = f"from course_utils.lora import break_even_rank; print(break_even_rank({d_in}, {d_out}))"
for options in ([], ["-I"], ["-E"], ["-S"], ["-B", "-s"]):
    command = [sys.executable, *options, "-c", ask]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return float(done.stdout)
    print(done.stderr[-500:])
