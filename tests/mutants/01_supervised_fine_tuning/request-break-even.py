# %% base default: a right answer, which the answers below change unless they name another base
def requests_until_paid(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size):
    if min(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size) < 1:
        raise ValueError("below 1")
    saved = 2 * prompted_size * prompted_tokens - 2 * tuned_size * tuned_tokens
    return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None


# %% right integers: rounds up without a float
def requests_until_paid(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size):
    if any(x < 1 for x in (trained_tokens, prompted_tokens, tuned_tokens)):
        raise ValueError("too few tokens")
    if prompted_size < 1 or tuned_size < 1:
        raise ValueError("too small")
    saved = prompted_size * prompted_tokens - tuned_size * tuned_tokens
    if saved <= 0:
        return None
    return -(-3 * tuned_size * trained_tokens // saved)


# %% right per-token: floats, one step after the other
def requests_until_paid(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size):
    for number in (trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size):
        if number <= 0:
            raise ValueError("must be positive")
    once = 6.0 * tuned_size * trained_tokens
    prompted = 2.0 * prompted_size * prompted_tokens
    tuned = 2.0 * tuned_size * tuned_tokens
    if tuned >= prompted:
        return None
    requests = int(once / (prompted - tuned))
    while once + requests * tuned > requests * prompted:
        requests += 1
    return requests


# %% wrong two-n: lets a token in training cost what a token in a request costs
old = "return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = "return math.ceil(2 * tuned_size * trained_tokens / saved) if saved > 0 else None"


# %% wrong one-size: cancels N although the models differ
old = "saved = 2 * prompted_size * prompted_tokens - 2 * tuned_size * tuned_tokens"
new = "saved = prompted_tokens - tuned_tokens"
old = "return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = "return math.ceil(3 * trained_tokens / saved) if saved > 0 else None"


# %% wrong floor: rounds down
old = "return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = "return 6 * tuned_size * trained_tokens // saved if saved > 0 else None"


# %% wrong one-more: adds a request where training is repaid exactly
old = "return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = "return 6 * tuned_size * trained_tokens // saved + 1 if saved > 0 else None"


# %% wrong fewer-tokens: says never wherever the tuned request is not shorter
def requests_until_paid(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size):
    if min(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size) < 1:
        raise ValueError("below 1")
    if tuned_tokens >= prompted_tokens:
        return None
    saved = 2 * prompted_size * prompted_tokens - 2 * tuned_size * tuned_tokens
    return math.ceil(6 * tuned_size * trained_tokens / saved)


# %% wrong nearly: takes a training that is repaid to a thousandth for repaid
old = "return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = "return int(6 * tuned_size * trained_tokens / saved + 0.999) if saved > 0 else None"


# %% right fractions: divides exactly, then rounds up
def requests_until_paid(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size):
    from fractions import Fraction

    if not all(
        n >= 1 for n in (trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size)
    ):
        raise ValueError("below 1")
    tuned, prompted = tuned_size * tuned_tokens, prompted_size * prompted_tokens
    if prompted <= tuned:
        return None
    return math.ceil(Fraction(3 * tuned_size * trained_tokens, prompted - tuned))


# %% right counting: adds one request after the other
def requests_until_paid(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size):
    if 1 > min(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size):
        raise ValueError("below 1")
    if tuned_size * tuned_tokens >= prompted_size * prompted_tokens:
        return None
    n = 0
    tuned, prompted = 6 * tuned_size * trained_tokens, 0
    while tuned > prompted:
        n += 1
        tuned += 2 * tuned_size * tuned_tokens
        prompted += 2 * prompted_size * prompted_tokens
    return n


# %% wrong all-saved: forgets that requests to the tuned model need computation too
def requests_until_paid(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size):
    if min(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size) < 1:
        raise ValueError("below 1")
    if prompted_size * prompted_tokens <= tuned_size * tuned_tokens:
        return None
    return math.ceil(6 * tuned_size * trained_tokens / (2 * prompted_size * prompted_tokens))


# %% wrong other-size: trains the model with the prompt
old = "return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = "return math.ceil(6 * prompted_size * trained_tokens / saved) if saved > 0 else None"


# %% wrong never-is-zero: returns 0 if training never pays off
old = "return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = "return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else 0"


# %% wrong only-equal: returns None only for equal requests, and negative numbers for worse ones
old = "return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = "return math.ceil(6 * tuned_size * trained_tokens / saved) if saved else None"


# %% wrong rounded: rounds to the nearest whole number
old = "return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = "return round(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"


# %% wrong no-checks: accepts zero and negative numbers
def requests_until_paid(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size):
    saved = 2 * prompted_size * prompted_tokens - 2 * tuned_size * tuned_tokens
    return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None


# %% wrong above-one: refuses a model with one parameter
old = "    saved = 2 * prompted_size * prompted_tokens - 2 * tuned_size * tuned_tokens"
new = """
    if tuned_size <= 1:
        raise ValueError("too small")
    saved = 2 * prompted_size * prompted_tokens - 2 * tuned_size * tuned_tokens
"""


# %% wrong tolerance: allows for a rounding error before it rounds up
old = "return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = "return math.ceil(6 * tuned_size * trained_tokens / saved - 1e-9) if saved > 0 else None"


# %% wrong at-most-100000: tries numbers up to 100,000
old = "    return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = """
    for n in range(1, 100_001):
        if n * saved >= 6 * tuned_size * trained_tokens:
            return n
    return None
"""


# %% wrong flops-below-one: tests the FLOP, so two negative numbers make a positive one
old = "if min(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size) < 1:"
new = "if min(tuned_size * trained_tokens, prompted_size * prompted_tokens, tuned_size) < 1:"


# %% wrong none-first: returns None before it looks at the tokens of the training
old = "if min(trained_tokens, prompted_tokens, tuned_tokens, prompted_size, tuned_size) < 1:"
new = "if min(prompted_tokens, tuned_tokens, prompted_size, tuned_size) < 1:"
old = "    return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = """
    if saved <= 0:
        return None
    if trained_tokens < 1:
        raise ValueError("below 1")
    return math.ceil(6 * tuned_size * trained_tokens / saved)
"""


# %% wrong equal-tokens: says never if both requests have as many tokens
old = "    return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = """
    if prompted_tokens == tuned_tokens:
        return None
    return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None
"""


# %% wrong ratio-of-sizes: divides the sizes first, so equal requests may seem to differ
old = "saved = 2 * prompted_size * prompted_tokens - 2 * tuned_size * tuned_tokens"
new = "saved = prompted_size / tuned_size * prompted_tokens - tuned_tokens"
old = "return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None"
new = "return math.ceil(3 * trained_tokens / saved) if saved > 0 else None"


# %% wrong ratio-of-costs: divides by the FLOP of a request first, and rounds up what is rounded
old = """
    saved = 2 * prompted_size * prompted_tokens - 2 * tuned_size * tuned_tokens
    return math.ceil(6 * tuned_size * trained_tokens / saved) if saved > 0 else None
"""
new = """
    prompted = 2 * prompted_size * prompted_tokens
    share = 2 * tuned_size * tuned_tokens / prompted
    if share >= 1:
        return None
    return math.ceil(6 * tuned_size * trained_tokens / prompted / (1 - share))
"""
