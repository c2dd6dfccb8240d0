# %% base default: a right answer, which the answers below change unless they name another base
def peak_bytes(model, batch_size, sequence_length):
    tokens = batch_size * sequence_length
    inputs = 4 * model["hidden"] * model["layers"] * tokens
    loss = 16 * model["vocab"] * tokens
    scores = 20 * model["heads"] * tokens * sequence_length
    return model["fixed"] + inputs + max(loss, scores)


def largest_model(models, usable, batch_size, sequence_length):
    best = None
    for name, model in models.items():
        if peak_bytes(model, batch_size, sequence_length) > usable:
            continue
        if best is None or model["parameters"] > models[best]["parameters"]:
            best = name
    return best


def largest_batch(model, usable, sequence_length):
    batch = 0
    while peak_bytes(model, batch + 1, sequence_length) <= usable:
        batch += 1
    return batch


def longest_sequence(model, usable, batch_size):
    length = 0
    while peak_bytes(model, batch_size, length + 1) <= usable:
        length += 1
    return length


# %% right halving: halves an interval for the length
old = """
    length = 0
    while peak_bytes(model, batch_size, length + 1) <= usable:
        length += 1
    return length
"""
new = """
    fits, too_long = 0, 1
    while peak_bytes(model, batch_size, too_long) <= usable:
        too_long *= 2
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if peak_bytes(model, batch_size, middle) <= usable:
            fits = middle
        else:
            too_long = middle
    return fits
"""


# %% right solved: solves both inequalities, then takes the smaller answer
def peak_bytes(model, batch_size, sequence_length):
    tokens = batch_size * sequence_length
    inputs = 4 * model["hidden"] * model["layers"] * tokens
    loss = 16 * model["vocab"] * tokens
    scores = 20 * model["heads"] * tokens * sequence_length
    return model["fixed"] + inputs + max(loss, scores)


def largest_model(models, usable, batch_size, sequence_length):
    by_size = sorted(models.items(), key=lambda item: -item[1]["parameters"])
    for name, model in by_size:
        if usable >= peak_bytes(model, batch_size, sequence_length):
            return name


def largest_batch(model, usable, sequence_length):
    if usable < model["fixed"]:
        return 0
    one = peak_bytes(model, 1, sequence_length) - model["fixed"]
    return (usable - model["fixed"]) // one


def longest_sequence(model, usable, batch_size):
    room = (usable - model["fixed"]) // batch_size
    if room < 0:
        return 0
    per_token = 4 * model["hidden"] * model["layers"]
    at_loss = room // (per_token + 16 * model["vocab"])
    a = 20 * model["heads"]  # a·s² + per_token·s <= room
    in_layer = (math.isqrt(per_token**2 + 4 * a * room) - per_token) // (2 * a)
    return min(at_loss, in_layer)


# %% wrong one-too-many: the first number that doesn't fit
old = "batch = 0"
new = "batch = 1"
old = "while peak_bytes(model, batch + 1, sequence_length) <= usable:"
new = "while peak_bytes(model, batch, sequence_length) <= usable:"
old = "length = 0"
new = "length = 1"
old = "while peak_bytes(model, batch_size, length + 1) <= usable:"
new = "while peak_bytes(model, batch_size, length) <= usable:"


# %% wrong highest-peak: the model that fills the GPU best
old = """
    best = None
    for name, model in models.items():
        if peak_bytes(model, batch_size, sequence_length) > usable:
            continue
        if best is None or model["parameters"] > models[best]["parameters"]:
            best = name
    return best
"""
new = """
    peaks = {name: peak_bytes(m, batch_size, sequence_length) for name, m in models.items()}
    fitting = [name for name, peak in peaks.items() if peak <= usable]
    return max(fitting, key=peaks.get, default=None)
"""


# %% wrong fixed-per-sequence: counts the fixed bytes once for each sequence
old = """
    batch = 0
    while peak_bytes(model, batch + 1, sequence_length) <= usable:
        batch += 1
    return batch
"""
new = "    return usable // peak_bytes(model, 1, sequence_length)"


# %% wrong linear: takes the bytes of a token as constant
old = """
    length = 0
    while peak_bytes(model, batch_size, length + 1) <= usable:
        length += 1
    return length
"""
new = """
    each = peak_bytes(model, batch_size, 1) - model["fixed"]
    return max(0, (usable - model["fixed"]) // each)
"""


# %% wrong first-that-fits: takes dicts to be sorted by size, from the largest
old = "    best = None"
new = ""
old = """
        if peak_bytes(model, batch_size, sequence_length) > usable:
            continue
        if best is None or model["parameters"] > models[best]["parameters"]:
            best = name
    return best
"""
new = """
        if peak_bytes(model, batch_size, sequence_length) <= usable:
            return name
    return None
"""


# %% wrong strictly-less: refuses a run that fills the GPU exactly; only hidden checks catch it
old = "while peak_bytes(model, batch + 1, sequence_length) <= usable:"
new = "while peak_bytes(model, batch + 1, sequence_length) < usable:"
old = "while peak_bytes(model, batch_size, length + 1) <= usable:"
new = "while peak_bytes(model, batch_size, length + 1) < usable:"


# %% right bisect: searches ranges with bisect, and sorts the models
def peak_bytes(model, batch_size, sequence_length):
    tokens = batch_size * sequence_length
    inputs = 4 * model["hidden"] * model["layers"] * tokens
    loss = 16 * model["vocab"] * tokens
    scores = 20 * model["heads"] * tokens * sequence_length
    return model["fixed"] + inputs + max(loss, scores)


def largest_model(models, usable, batch_size, sequence_length):
    names = sorted(models, key=lambda name: models[name]["parameters"])
    fitting = [n for n in names if peak_bytes(models[n], batch_size, sequence_length) <= usable]
    return fitting.pop() if fitting else None


def largest_batch(model, usable, sequence_length):
    from bisect import bisect_right

    numbers = range(1, 50_001)
    return bisect_right(numbers, usable, key=lambda n: peak_bytes(model, n, sequence_length))


def longest_sequence(model, usable, batch_size):
    from bisect import bisect_right

    return bisect_right(range(1, 50_001), usable, key=lambda n: peak_bytes(model, batch_size, n))


# %% wrong empty-max: takes the maximum of nothing if no model fits
old = """
    best = None
    for name, model in models.items():
        if peak_bytes(model, batch_size, sequence_length) > usable:
            continue
        if best is None or model["parameters"] > models[best]["parameters"]:
            best = name
    return best
"""
new = """
    fitting = [n for n in models if peak_bytes(models[n], batch_size, sequence_length) <= usable]
    return max(fitting, key=lambda name: models[name]["parameters"])
"""


# %% wrong empty-string: returns an empty name if no model fits
old = "best = None"
new = 'best, most = "", 0'
old = """
        if peak_bytes(model, batch_size, sequence_length) > usable:
            continue
        if best is None or model["parameters"] > models[best]["parameters"]:
            best = name
"""
new = """
        if peak_bytes(model, batch_size, sequence_length) <= usable and model["parameters"] > most:
            best, most = name, model["parameters"]
"""


# %% wrong last-that-fits: returns the last model that fits
old = """
        if peak_bytes(model, batch_size, sequence_length) > usable:
            continue
        if best is None or model["parameters"] > models[best]["parameters"]:
"""
new = "        if peak_bytes(model, batch_size, sequence_length) <= usable:"


# %% wrong negative: divides without a limit at zero
old = """
    batch = 0
    while peak_bytes(model, batch + 1, sequence_length) <= usable:
        batch += 1
    return batch
"""
new = """
    each = peak_bytes(model, 1, sequence_length) - model["fixed"]
    return (usable - model["fixed"]) // each
"""


# %% wrong no-fixed: forgets the fixed bytes
old = """
    batch = 0
    while peak_bytes(model, batch + 1, sequence_length) <= usable:
        batch += 1
    return batch
"""
new = '    return usable // (peak_bytes(model, 1, sequence_length) - model["fixed"])'


# %% wrong powers: tries powers of 2 only
old = "while peak_bytes(model, batch_size, length + 1) <= usable:"
new = "while peak_bytes(model, batch_size, 2 * length or 1) <= usable:"
old = "length += 1"
new = "length = 2 * length or 1"


# %% wrong at-most-4096: tries lengths up to 4,096, which is enough for the visible checks
old = "while peak_bytes(model, batch_size, length + 1) <= usable:"
new = "while length < 4096 and peak_bytes(model, batch_size, length + 1) <= usable:"


# %% wrong one-sequence: ignores the batch size
old = "while peak_bytes(model, batch_size, length + 1) <= usable:"
new = "while peak_bytes(model, 1, length + 1) <= usable:"


# %% wrong scores-only: solves for the scores and ignores the loss
old = """
    length = 0
    while peak_bytes(model, batch_size, length + 1) <= usable:
        length += 1
    return length
"""
new = """
    room = max(0, usable - model["fixed"]) // batch_size
    per_token = 4 * model["hidden"] * model["layers"]
    a = 20 * model["heads"]
    return (math.isqrt(per_token**2 + 4 * a * room) - per_token) // (2 * a)
"""


# %% wrong at-most-32768: finds no batch and no length above 32,768
old = "return batch"
new = "return min(batch, 32_768)"
old = "return length"
new = "return min(length, 32_768)"


# %% wrong loss-below-1000: lets the loss decide below 1,000 tokens
old = """
    length = 0
    while peak_bytes(model, batch_size, length + 1) <= usable:
        length += 1
    return length
"""
new = """
    room = max(0, usable - model["fixed"]) // batch_size
    per_token, a = 4 * model["hidden"] * model["layers"], 20 * model["heads"]
    length = room // (per_token + 16 * model["vocab"])
    if length < 1000:
        return length
    return (math.isqrt(per_token**2 + 4 * a * room) - per_token) // (2 * a)
"""


# %% wrong billions: compares whole billions of parameters
old = 'model["parameters"] > models[best]["parameters"]:'
new = 'model["parameters"] // 10**9 > models[best]["parameters"] // 10**9:'


# %% wrong stops-early: goes up the sizes and stops at the first model that doesn't fit
old = """
    for name, model in models.items():
        if peak_bytes(model, batch_size, sequence_length) > usable:
            continue
        if best is None or model["parameters"] > models[best]["parameters"]:
            best = name
"""
new = """
    for name in sorted(models, key=lambda name: models[name]["parameters"]):
        if peak_bytes(models[name], batch_size, sequence_length) > usable:
            break
        best = name
"""


# %% wrong below-50000: finds no batch of 50,000, the largest answer
old = "while peak_bytes(model, batch + 1, sequence_length) <= usable:"
new = "while batch < 49_999 and peak_bytes(model, batch + 1, sequence_length) <= usable:"
