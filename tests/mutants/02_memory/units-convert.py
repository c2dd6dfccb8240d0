# %% base default: a right answer, which the answers below change unless they name another base
def convert(amount, unit, to):
    size = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
    size |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
    if unit not in size or to not in size:
        raise ValueError("unknown unit")
    return amount * size[unit] / size[to]


# %% right table: nine sizes in a dict
old = "def convert(amount, unit, to):"
new = "def convert(amount: float, unit: str, to: str) -> float:"
old = "return amount * size[unit] / size[to]"
new = "return amount * (size[unit] / size[to])"


# %% right lists: a power for the place in a list, whose ValueError it passes on
def convert(amount, unit, to):
    def size(name):
        decimal = ["B", "kB", "MB", "GB", "TB"]
        if name in decimal:
            return 1000 ** decimal.index(name)
        return 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(name)  # ValueError if not there

    in_bytes = amount * size(unit)
    return in_bytes / size(to)


# %% wrong alike: GB and GiB are the same
old = 'size = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}'
new = 'size = {"B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}'


# %% wrong upside-down: divides by the unit and multiplies by the target
old = "return amount * size[unit] / size[to]"
new = "return amount * size[to] / size[unit]"


# %% wrong any-case: takes gb for GB
def convert(amount, unit, to):
    size = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
    size |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
    if unit.lower() not in size or to.lower() not in size:
        raise ValueError("unknown unit")
    return amount * size[unit.lower()] / size[to.lower()]


# %% wrong rounded: two decimals, as on a page
old = "return amount * size[unit] / size[to]"
new = "return round(amount * size[unit] / size[to], 2)"


# %% wrong key-error: leaves the error to the dict
def convert(amount, unit, to):
    size = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
    size |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
    return amount * size[unit] / size[to]


# %% wrong kilo-1024: a kB of 1024 B, which only hidden checks catch
old = 'size = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}'
new = 'size = {"B": 1, "kB": 1024, "MB": 1e6, "GB": 1e9, "TB": 1e12}'


# %% right powers: finds the power in the name's first letter
def convert(amount, unit, to):
    names = ["B"] + [f"{letter}B" for letter in "kMGT"] + [f"{letter}iB" for letter in "KMGT"]
    if not {unit, to} <= set(names):
        raise ValueError("unknown unit")

    def size(name):
        power = "BKMGT".index(name[0].upper())
        return 1 if power == 0 else (1024 if "i" in name else 1000) ** power

    return amount * size(unit) / size(to)


# %% wrong stripped: accepts spaces around a name
old = "    if unit not in size or to not in size:"
new = """
    unit, to = unit.strip(), to.strip()
    if unit not in size or to not in size:
"""


# %% wrong half-checked: looks at the first name only, and takes any other target for bytes
old = "if unit not in size or to not in size:"
new = "if unit not in size:"
old = "return amount * size[unit] / size[to]"
new = "return amount * size[unit] / size.get(to, 1)"


# %% wrong only-visible: knows the units of the visible checks
def convert(amount, unit, to):
    size = {"MB": 1e6, "GB": 1e9, "MiB": 2**20, "GiB": 2**30}
    if unit not in size or to not in size:
        raise ValueError("unknown unit")
    return amount * size[unit] / size[to]


# %% wrong whole: rounds down to a whole number
old = 'size = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}'
new = 'size = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}'
old = "return amount * size[unit] / size[to]"
new = "return amount * size[unit] // size[to]"


# %% wrong bits: takes a small b for bits
old = "    if unit not in size or to not in size:"
new = """
    size |= {"Mb": 1e6 / 8, "Gb": 1e9 / 8, "b": 1 / 8}
    if unit not in size or to not in size:
"""


# %% wrong zero-first: returns 0 for an amount of 0 before it looks at the names
old = "    if unit not in size or to not in size:"
new = """
    if amount == 0:
        return 0.0
    if unit not in size or to not in size:
"""
