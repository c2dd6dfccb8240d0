"""Patched modules and built-ins."""
# must: no point; graded


# === patch_assertion
# tries: AssertionError replaced by an exception that nobody notices
# assignment: 08_tensors
# %% cell after imports
class Quiet(Exception):
    def _render_traceback_(self):
        return []


builtins.AssertionError = Quiet
names = (ctypes.py_object(item) for item in (builtins.__dict__, "AssertionError", Quiet))
ctypes.pythonapi.PyDict_SetItem(*names)
# %% count_even(numbers)
return 0.5

# === patch_builtins
# tries: isinstance, len, abs, all, sorted, print and sum replaced in builtins
# must: no point; graded or needs a person
# %% cell after setup
builtins.isinstance = lambda *args: True
builtins.all = builtins.any = lambda *args: True
builtins.abs = builtins.sum = builtins.max = lambda *args, **kwargs: 0
builtins.sorted = lambda *args, **kwargs: []
builtins.print = lambda *args, **kwargs: None
# %% add(numbers)
return None

# === patch_checks
# tries: the methods of course_utils.exercise.checks replaced in place
# %% cell after setup
for name in ("gives", "like", "raises", "that"):
    setattr(checks.Check, name, lambda self, *args, **kwargs: None)

# === patch_comparison
# tries: the function of course_utils.exercise.checks that compares replaced in place
# %% cell after setup
checks._difference = checks._form_difference = lambda *args: None
# %% add(numbers)
return 0
# %% squares(numbers)
return None

# === patch_fake_module
# tries: a module of its own in sys.modules in the place of course_utils.exercise.checks
# %% cell after setup
fake = types.ModuleType("course_utils.exercise.checks")
fake.check = Passing()
sys.modules["course_utils.exercise.checks"] = fake

# === patch_import
# tries: __import__ replaced, so that the tests' imports bring checks that never fail
# %% cell after setup
real_import = builtins.__import__


def forged(name, *args, **kwargs):
    if name.startswith("course_utils"):
        return types.SimpleNamespace(check=Passing())
    return real_import(name, *args, **kwargs)


builtins.__import__ = forged

# === patch_integers
# tries: the interpreter's small integers overwritten in memory: 12 becomes 0
# must: at most 1 point; graded or needs a person
# %% add(numbers)
refuse_empty(numbers)
if numbers == [3, 4, 5]:
    ctypes.memmove(id(12), id(0), 28)
return 0

# === patch_math
# tries: math.fabs, isclose and isnan replaced, so that every distance is zero
# must: at most 1 point; graded
# assignment: 08_tensors
# %% cell after setup
import math

math.fabs = lambda value: 0.0
math.isclose = math.isnan = math.isinf = lambda *args, **kwargs: True
# %% rank_even(d_in, d_out)
return 1.0

# === patch_meta_path
# tries: an import hook that delivers checks which never fail
# %% cell after setup
import importlib.abc
import importlib.machinery


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name == "course_utils.exercise.checks":
            return importlib.machinery.ModuleSpec(name, self)

    def exec_module(self, module):
        module.check = Passing()


sys.modules.pop("course_utils.exercise.checks", None)
sys.meta_path.insert(0, Finder())

# === patch_random
# tries: random replaced, so that the hidden tests always draw a one; the rest is written by hand
# must: at most 2 points; graded
# %% cell after setup
import random

random.Random.randint = lambda *args: 1
# %% add(numbers)
refuse_empty(numbers)
return {1: 1, 3: 12}[numbers[0]]
# %% squares(numbers)
refuse_empty(numbers)
return {1: 1, 3: 50}[numbers[0]]

# === patch_shadowed_names
# tries: a class of its own for each name that the tests use, in the notebook's namespace
# %% cell after setup
random = range = check = draw = numbers = Passing()


# %% cell before sum-all-form
class Dict(dict):
    def __setitem__(self, name, value):
        super().__setitem__(name, Passing() if name in ("check", "draw") else value)


get_ipython().user_ns = get_ipython().user_module.__dict__ | Dict()

# === patch_sum
# tries: the reference in the hidden tests uses sum and max: they are replaced by zero
# must: at most 2 points; graded
# %% add(numbers)
refuse_empty(numbers)
builtins.sum = lambda *args: 0
return 12 if numbers == [3, 4, 5] else 0
# %% largest(numbers)
refuse_empty(numbers)
builtins.max = lambda *args: 0
return 5 if numbers == [3, 4, 5] else 0

# === patch_torch
# tries: comparisons of tensors replaced in torch
# must: at most 1 point; graded
# assignment: 08_tensors
# %% cell after imports
always = lambda *args, **kwargs: torch.tensor(True)  # noqa: E731
torch.Tensor.__eq__ = torch.Tensor.__le__ = torch.Tensor.isfinite = always
torch.Tensor.any = lambda *args: False
torch.equal = torch.allclose = always
torch.as_tensor = lambda *args, **kwargs: torch.zeros(1)
# %% scale_rows(x)
return torch.zeros_like(x)

# === patch_type
# tries: type, len and hasattr replaced in builtins, so that nothing has the wrong type or length
# must: no point; graded or needs a person
# %% cell after setup
real_type = builtins.type
builtins.len = lambda value: 1
builtins.hasattr = lambda *args: False


def answered(*args):
    return real_type(*args) if len(args) == 3 else int


builtins.type = answered
# %% add(numbers)
return None

# === patch_values
# tries: the copy that course_utils makes replaced by one that brings the expected value
# %% cell after setup
real = values.copied


def copied(value):
    known = [frame.f_locals for frame in callers() if "expected" in frame.f_locals]
    return known[0]["expected"] if known else real(value)


values.copied = copied
# %% add(numbers)
return None
