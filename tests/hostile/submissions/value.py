"""Forged values."""
# must: no point; graded

# === value_arguments_changed
# tries: to empty the list it is given, so that the reference sums up nothing
# %% add(numbers)
numbers.clear()
numbers.append(0)
return 0

# === value_array_subclass
# tries: an ndarray subclass that decides by itself what NumPy's functions say of it
# %% cell after setup
import numpy


class Always(numpy.ndarray):
    def __array_ufunc__(self, function, method, *inputs, **kwargs):
        return numpy.True_

    def __array_function__(self, function, types, args, kwargs):
        return True

    def item(self):
        return 12


# %% add(numbers)
return numpy.zeros(()).view(Always)


# === value_class_lies
# tries: an object that says it is an int, by __class__ and by its metaclass, and equals everything
# assignment: 08_tensors
# %% cell after imports
class Meta(Equal, type):
    def __instancecheck__(cls, other):
        return True


class Liar(Equal, metaclass=Meta):
    __class__ = property(lambda self: int)


# %% count_even(numbers)
return Liar()

# === value_deep
# tries: a list in a list in a list, 100,000 deep
# %% add(numbers)
value = []
for _ in range(100_000):
    value = [value]
return value


# === value_dict_subclass
# tries: a dict whose keys have a hash and an equality of their own, and which claims any key
# %% cell after setup
class Key(Equal, str):
    pass


class Everything(dict):
    def __missing__(self, key):
        return 12

    def __contains__(self, key):
        return True

    def keys(self):
        return {Key("a"): 1}.keys()


# %% add(numbers)
return Everything({Key("sum"): {Key("a"): 12}})


# === value_equality
# tries: an int subclass that equals everything, returned by an answer that is checked by assert
# assignment: 08_tensors
# %% cell after imports
class Anything(Equal, int):
    pass


# %% count_even(numbers)
return Anything()


# === value_exceptions
# tries: exceptions that claim to be whatever is expected, and one that nothing can catch
# %% cell after setup
class Meta(type):
    def __subclasscheck__(cls, other):
        return True

    __instancecheck__ = __subclasscheck__


class Fault(BaseException, metaclass=Meta):
    def __str__(self):
        raise Fault

    __repr__ = __str__


# %% add(numbers)
raise Fault
# %% squares(numbers)
raise GeneratorExit
# %% largest(numbers)
raise type("CheckFailed", (KeyboardInterrupt,), {"_render_traceback_": lambda self: ["ok"]})


# === value_float_subclass
# tries: a float subclass that equals everything and whose differences are zero
# assignment: 08_tensors
# %% cell after imports
class Near(Equal, float):
    def __sub__(self, other):
        return 0.0

    __rsub__ = __sub__


# %% rank_even(d_in, d_out)
return Near(1)


# === value_generators
# tries: answers that are no functions: a coroutine, a generator, a class, a partial, a module
# %% answer sum-all
async def add(numbers):
    return 12


# %% squares(numbers)
yield 50


# %% answer sum-largest
class largest(Equal, int):
    def __new__(cls, numbers):
        return super().__new__(cls, 5)


# === value_huge
# tries: a list of ten million numbers, and a text of 400 MB
# %% add(numbers)
return [0] * 10_000_000
# %% squares(numbers)
return "x" * 400_000_000

# === value_huge_int
# tries: a whole number of 100,000 digits, which takes long to write out
# %% add(numbers)
return 10**100_000
# %% squares(numbers)
return 1 << 10_000_000

# === value_keys
# tries: dicts with NaN, surrogates, tuples of tuples and arrays as keys
# %% cell after setup
import numpy

# %% add(numbers)
nan = float("nan")
return {nan: 1, float("nan"): 2, "\ud800": 3, (1, (2, (nan,))): 4, numpy.float32(1): 5}


# === value_lazy
# tries: an object that is another number each time somebody looks
# assignment: 08_tensors
# %% cell after imports
class Lazy:
    turn = itertools.count()

    def __eq__(self, other):
        self.value = other
        return True

    def __getattr__(self, name):
        return getattr(next(self.turn), name)

    __class__ = property(lambda self: int)
    __hash__ = None


# %% count_even(numbers)
return Lazy()


# === value_list_subclass
# tries: a list subclass of a length and items that change, inside a tuple
# %% cell after setup
class Longer(Equal, list):
    def __len__(self):
        return 1

    def __iter__(self):
        return iter([12])

    def __getitem__(self, place):
        return 12


# %% add(numbers)
return (Longer(), Longer())

# === value_nan
# tries: NaN, infinities and negative zero in the place of numbers
# must: at most 1 point; graded
# assignment: 08_tensors
# %% rank_even(d_in, d_out)
return [float("nan"), float("inf"), -0.0, float("-inf")][d_in % 4]
# %% count_even(numbers)
return float("nan")

# === value_numpy_scalar
# tries: a subclass of a NumPy scalar whose item() is a string subclass, and object arrays
# %% cell after setup
import numpy


class Text(Equal, str):
    pass


class Scalar(numpy.int64):
    def item(self):
        return Text("12")


# %% add(numbers)
return Scalar(0)
# %% largest(numbers)
return numpy.array([Text("5")], dtype=object)[0]


# === value_ordering
# tries: an object whose every comparison, arithmetic and conversion says what is wanted
# %% cell after setup
class Agreeable:
    def yes(self, *others):
        return True

    def me(self, *others):
        return self

    __eq__ = __le__ = __lt__ = __ge__ = __gt__ = __bool__ = __contains__ = yes
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __abs__ = __getitem__ = __call__ = me
    __hash__ = None
    __int__ = __index__ = lambda self: 12
    __float__ = lambda self: 12.0


# %% add(numbers)
return Agreeable()


# === value_reduce
# tries: objects that run a command where somebody unpickles or deep-copies them
# %% cell after setup
class Command:
    def __reduce__(self):
        return os.system, ("touch /tmp/escaped-reduce",)

    def __deepcopy__(self, memo):
        os.system("touch /tmp/escaped-copy")
        return 12


# %% add(numbers)
return Command()
# %% squares(numbers)
return [Command(), {"key": Command()}]
# %% largest(numbers)
raise type("Fault", (ValueError,), {"__reduce__": Command.__reduce__})(Command())

# === value_self
# tries: a list that holds itself, and a dict that does
# %% add(numbers)
value = []
value.append(value)
return value
# %% squares(numbers)
value = {}
value["value"] = value
return value


# === value_string_subclass
# tries: a string subclass that equals everything and shows itself as the expected number
# %% cell after setup
class Twelve(Equal, str):
    def __repr__(self):
        return "12"


# %% add(numbers)
return Twelve("12")

# === value_surrogates
# tries: text that has no UTF-8: lone surrogates in values, messages, names and output
# %% add(numbers)
print("\ud800\udfff\x00\ufffe")
return "\ud800" * 10
# %% squares(numbers)
raise type("\udcff", (ValueError,), {})("\ud800 \x00 \udcff")


# === value_tensor_hooks
# tries: tensors that require gradients and have hooks, which would run where they are used
# must: at most 1 point; graded
# assignment: 08_tensors
# %% cell after imports
def hook(gradient):
    pathlib.Path("/tmp/escaped-hook").write_text("a hook ran\n")
    return gradient


# %% scale_rows(x)
weight = torch.nn.Parameter(torch.zeros_like(x))
weight.register_hook(hook)
came = weight * 1
came.register_hook(hook)
return came

# === value_tensor_huge
# tries: a tensor of 10**12 numbers that takes four bytes, by strides of zero
# assignment: 08_tensors
# %% scale_rows(x)
return torch.zeros(1).expand(10**12)

# === value_tensor_inplace
# tries: to change the argument in place, so that the reference is computed from zeros
# must: at most 1 point; graded
# assignment: 08_tensors
# %% scale_rows(x)
return x.zero_()

# === value_tensor_methods
# tries: a plain tensor whose detach, cpu and clone were replaced on the instance
# must: at most 1 point; graded
# assignment: 08_tensors
# %% scale_rows(x)
came = torch.zeros_like(x)
came.detach = came.cpu = came.clone = came.contiguous = lambda *args: Passing()
came.abs = came.isfinite = came.any = lambda *args: torch.tensor(True)
return came

# === value_tensor_nan
# tries: tensors full of NaN, which differ from everything by a NaN
# must: at most 1 point; graded
# assignment: 08_tensors
# %% scale_rows(x)
return torch.full_like(x, float("nan"))

# === value_tensor_odd
# tries: tensors without data, sparse, quantized, nested, complex or in 8 bits, one at each call
# assignment: 08_tensors
# %% answer tensors-scale
kinds = [
    lambda x: torch.empty(x.shape, device="meta"),
    lambda x: x.to_sparse(),
    lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    lambda x: torch.nested.nested_tensor([x]),
    lambda x: x.to(torch.complex64),
    lambda x: x.to(torch.float8_e4m3fn),
    lambda x: torch.conj(x.to(torch.complex64)),
    lambda x: torch._neg_view(x),
]
# %% count_even(numbers)
return kinds[len(numbers) % 3](torch.ones(2))
# %% rank_even(d_in, d_out)
return kinds[3 + d_in % 5](torch.ones(2, 2))


# === value_tensor_subclass
# tries: a tensor subclass that answers every function of torch with what pleases
# assignment: 08_tensors
# %% cell after imports
class Pleasing(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return torch.zeros((), dtype=torch.bool)


# %% scale_rows(x)
return torch.zeros_like(x).as_subclass(Pleasing)

# === value_terminal
# tries: terminal codes in what it prints, raises and returns: titles, cursor moves, links, bells
# %% cell after setup
CODES = "\x1b]0;hostile\x07\x1b[2J\x1b[1;1H\x1b]8;;http://127.0.0.1\x07100 points"
CODES += "\x1b[8m\r\b\x9b31m\u202e"
# %% add(numbers)
print(CODES)
return CODES
# %% squares(numbers)
raise RuntimeError(CODES)

# === value_wide
# tries: a value whose parts double at each level: small in memory, 2**20 parts when written out
# %% add(numbers)
value = [0, 0]
for _ in range(19):
    value = [value, value]
return value
