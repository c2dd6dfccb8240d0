# %% right largest: compares the end that is further from 0 with the bound
def conclude(low, high, bound):
    if not bound > 0:
        raise ValueError("this bound is not allowed")
    if max(abs(low), abs(high)) < bound:
        return "equal"
    if low <= 0 <= high:
        return "open"
    return "different"


# %% right signs: looks up the answer by the signs of both ends
def conclude(low, high, bound):
    if bound <= 0:
        raise ValueError(f"bound {bound}")
    equal = all(-bound < end < bound for end in (low, high))
    excludes_zero = low * high > 0
    return "equal" if equal else ("open", "different")[excludes_zero]


# %% wrong zero-means-equal: calls two models equal if the interval contains 0
def conclude(low, high, bound):
    if bound <= 0:
        raise ValueError("bound must be above 0")
    return "equal" if low <= 0 <= high else "different"


# %% wrong different-first: calls an interval within the bound different if it excludes 0
def conclude(low, high, bound):
    if bound <= 0:
        raise ValueError("bound must be above 0")
    if low > 0 or high < 0:
        return "different"
    return "equal" if -bound < low and high < bound else "open"


# %% wrong on-the-bound: counts an end on the bound as within it
old = "if -bound < low and high < bound:"
new = "if -bound <= low and high <= bound:"


# %% wrong at-zero: counts an interval that ends at 0 as one that excludes 0
old = 'return "different" if low > 0 or high < 0 else "open"'
new = 'return "different" if low >= 0 or high <= 0 else "open"'


# %% wrong middle: compares only the middle of the interval with the bound
old = "if -bound < low and high < bound:"
new = "if abs(low + high) / 2 < bound:"


# %% wrong upper-only: compares only the upper end with the bound
old = "if -bound < low and high < bound:"
new = "if high < bound:"


# %% wrong better-only: calls only a better model different
old = 'return "different" if low > 0 or high < 0 else "open"'
new = 'return "different" if low > 0 else "open"'


# %% wrong beyond-the-bound: calls models different only if the whole interval is beyond the bound
old = 'return "different" if low > 0 or high < 0 else "open"'
new = 'return "different" if low > bound or high < -bound else "open"'


# %% wrong zero-bound: accepts a bound of 0
old = "if bound <= 0:"
new = "if bound < 0:"


# %% wrong no-error: accepts each bound
def conclude(low, high, bound):
    if -bound < low and high < bound:
        return "equal"
    return "different" if low > 0 or high < 0 else "open"


# %% wrong rounded: rounds the interval to two digits
old = "    if -bound < low and high < bound:"
new = """
    low, high = round(low, 2), round(high, 2)
    if -bound < low and high < bound:
"""


# %% wrong no-width: refuses an interval whose ends are equal
old = "if bound <= 0:"
new = "if bound <= 0 or low >= high:"
