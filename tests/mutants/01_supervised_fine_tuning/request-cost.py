# %% base default: a right answer, which the answers below change unless they name another base
def request_cost(instruction, examples, story, answer, read_price, write_price, cached_price=None):
    if min([instruction, story, answer, *(n for pair in examples for n in pair)]) < 0:
        raise ValueError("negative")
    kept_price = read_price if cached_price is None else cached_price
    prefix = instruction + sum(sum(pair) for pair in examples)
    return (prefix * kept_price + story * read_price + answer * write_price) / 1e6


# %% right in-parts: adds up what is read fresh, kept and written
def request_cost(instruction, examples, story, answer, read_price, write_price, cached_price=None):
    counts = [instruction, story, answer]
    for asked, answered in examples:
        counts += [asked, answered]
    if any(count < 0 for count in counts):
        raise ValueError("negative")
    prefix = sum(counts) - story - answer
    if cached_price is None:
        cached_price = read_price
    return prefix * cached_price / 1e6 + story * read_price / 1e6 + answer * write_price / 1e6


# %% right per-token: turns the prices into prices of one token
def request_cost(instruction, examples, story, answer, read_price, write_price, cached_price=None):
    if instruction < 0 or story < 0 or answer < 0:
        raise ValueError("negative")
    read, write = read_price * 1e-6, write_price * 1e-6
    kept = read if cached_price is None else cached_price * 1e-6
    total = instruction * kept
    for example in examples:
        if min(example) < 0:
            raise ValueError("negative")
        total += sum(example) * kept
    return total + story * read + answer * write


# %% wrong stories-only: leaves out the answers of the worked examples
old = "prefix = instruction + sum(sum(pair) for pair in examples)"
new = "prefix = instruction + sum(asked for asked, _ in examples)"


# %% wrong cheaper: takes the lower price where keeping tokens costs more than reading them
old = "kept_price = read_price if cached_price is None else cached_price"
new = "kept_price = read_price if cached_price is None else min(cached_price, read_price)"


# %% wrong examples-written: charges the examples' answers as written
def request_cost(instruction, examples, story, answer, read_price, write_price, cached_price=None):
    if min([instruction, story, answer, *(n for pair in examples for n in pair)]) < 0:
        raise ValueError("negative")
    kept_price = read_price if cached_price is None else cached_price
    prefix = instruction + sum(asked for asked, _ in examples)
    written = answer + sum(answered for _, answered in examples)
    return (prefix * kept_price + story * read_price + written * write_price) / 1e6


# %% wrong all-kept: takes the story for kept as well
old = "prefix = instruction + sum(sum(pair) for pair in examples)"
new = "read = instruction + sum(sum(pair) for pair in examples) + story"
old = "return (prefix * kept_price + story * read_price + answer * write_price) / 1e6"
new = "return (read * kept_price + answer * write_price) / 1e6"


# %% wrong falsy: a cached price of 0 counts as none
def request_cost(instruction, examples, story, answer, read_price, write_price, cached_price=None):
    if min([instruction, story, answer, *(n for pair in examples for n in pair)]) < 0:
        raise ValueError("negative")
    prefix = instruction + sum(sum(pair) for pair in examples)
    kept = prefix * (cached_price or read_price)
    return (kept + story * read_price + answer * write_price) / 1e6


# %% wrong unchecked-examples: looks for negative numbers outside the examples only
old = "if min([instruction, story, answer, *(n for pair in examples for n in pair)]) < 0:"
new = "if min(instruction, story, answer) < 0:"


# %% right sums: adds up columns of the examples, and looks for negative numbers with any
def request_cost(instruction, examples, story, answer, read_price, write_price, cached_price=None):
    stories, answers = [a for a, _ in examples], [b for _, b in examples]
    if any(n < 0 for n in [instruction, story, answer] + stories + answers):
        raise ValueError("negative")
    same = instruction + sum(stories) + sum(answers)
    if cached_price is not None:
        return (same * cached_price + story * read_price + answer * write_price) / 10**6
    return ((same + story) * read_price + answer * write_price) / 10**6


# %% wrong millions: forgets that prices are per million tokens
old = "return (prefix * kept_price + story * read_price + answer * write_price) / 1e6"
new = "return prefix * kept_price + story * read_price + answer * write_price"


# %% wrong answer-read: charges the answer at the price of reading
old = "return (prefix * kept_price + story * read_price + answer * write_price) / 1e6"
new = "return (prefix * kept_price + (story + answer) * read_price) / 1e6"


# %% wrong discount: subtracts the cached price from the price of reading
old = "kept_price = read_price if cached_price is None else cached_price"
new = "kept_price = read_price - (cached_price or 0)"


# %% wrong three-examples: counts three examples, as many as the visible checks have
old = "prefix = instruction + sum(sum(pair) for pair in examples)"
new = "prefix = instruction + sum(sum(pair) for pair in examples[:3])"


# %% wrong asserts: raises AssertionError for negative numbers
def request_cost(instruction, examples, story, answer, read_price, write_price, cached_price=None):
    assert min([instruction, story, answer, *(n for pair in examples for n in pair)]) >= 0
    kept_price = read_price if cached_price is None else cached_price
    prefix = instruction + sum(sum(pair) for pair in examples)
    return (prefix * kept_price + story * read_price + answer * write_price) / 1e6


# %% wrong last-example: looks for negative numbers in the last example only
old = "if min([instruction, story, answer, *(n for pair in examples for n in pair)]) < 0:"
new = "if min([instruction, story, answer, *(examples[-1] if examples else ())]) < 0:"


# %% wrong unchecked-cached: looks for negative numbers only without a cached price
old = "    if min([instruction, story, answer, *(n for pair in examples for n in pair)]) < 0:"
new = """
    counts = [instruction, story, answer, *(n for pair in examples for n in pair)]
    if cached_price is None and min(counts) < 0:
"""


# %% wrong no-zeros: refuses examples with 0 tokens
old = "    kept_price = read_price if cached_price is None else cached_price"
new = """
    if any(n <= 0 for pair in examples for n in pair):
        raise ValueError("empty example")
    kept_price = read_price if cached_price is None else cached_price
"""


# %% wrong eight-examples: counts at most eight examples, as many as the lecture has
old = "prefix = instruction + sum(sum(pair) for pair in examples)"
new = "prefix = instruction + sum(sum(pair) for pair in examples[:8])"


# %% wrong different-examples: counts equal examples once
old = "prefix = instruction + sum(sum(pair) for pair in examples)"
new = "prefix = instruction + sum(sum(pair) for pair in set(examples))"


# %% wrong no-free-prices: refuses a price of 0
old = "    kept_price = read_price if cached_price is None else cached_price"
new = """
    if read_price <= 0 or write_price <= 0:
        raise ValueError("price")
    kept_price = read_price if cached_price is None else cached_price
"""


# %% wrong rounded: rounds the price to 8 decimals
old = "return (prefix * kept_price + story * read_price + answer * write_price) / 1e6"
new = "return round((prefix * kept_price + story * read_price + answer * write_price) / 1e6, 8)"


# %% wrong products: tests products, so two negative numbers make a positive one
old = "if min([instruction, story, answer, *(n for pair in examples for n in pair)]) < 0:"
new = "if instruction * story * answer < 0 or any(a * b < 0 for a, b in examples):"
