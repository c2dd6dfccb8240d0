# %% right by-bisection: asks for each length whether both moments fit
def longest_texts(*, room, weights, gradients, states, paged, token_bytes, page):
    if paged > states:
        raise ValueError("more pages than states")

    def fits(tokens, movable):
        fixed = weights + states - movable
        spike = fixed + tokens * token_bytes
        update = fixed + gradients + min(page, movable)
        return max(spike, update) <= room

    def longest(movable):
        low, high = 0, room // token_bytes + 1
        while low < high:
            middle = (low + high + 1) // 2
            if fits(middle, movable):
                low = middle
            else:
                high = middle - 1
        return low

    return longest(0), longest(paged)


# %% right two-cases: both written out
def longest_texts(*, room, weights, gradients, states, paged, token_bytes, page):
    staying = states - paged
    if staying < 0:
        raise ValueError(staying)
    without = max(0, (room - weights - states) // token_bytes)
    if weights + gradients + states > room:
        without = 0
    paging = max(0, (room - weights - staying) // token_bytes)
    if weights + gradients + staying + min(paged, page) > room:
        paging = 0
    return (without, paging)


# %% wrong no-update: looks at the spike alone
def longest_texts(*, room, weights, gradients, states, paged, token_bytes, page):
    if paged > states:
        raise ValueError("more pages than states")
    without = (room - weights - states) // token_bytes
    paging = (room - weights - states + paged) // token_bytes
    return max(0, without), max(0, paging)


# %% wrong all-states-move: lets also the small states move
old = "return longest(0), longest(paged)"
new = "return longest(0), longest(states)"


# %% wrong gradients-at-spike: has the gradients there at the loss
old = "fixed = weights + states - movable"
new = "fixed = weights + gradients + states - movable"
old = "if fixed + gradients + min(page, movable) > room:"
new = "if fixed + min(page, movable) > room:"


# %% wrong no-page: at the update needs no page on the GPU
old = """
        if fixed + gradients + min(page, movable) > room:
            return 0
        return (room - fixed) // token_bytes
"""
new = "        return 0 if fixed + gradients > room else (room - fixed) // token_bytes"


# %% wrong whole-page: asks room for a whole page, even where all pages are less
def longest_texts(*, room, weights, gradients, states, paged, token_bytes, page):
    if paged > states:
        raise ValueError("more pages than states")
    without = paging = 0
    if weights + gradients + states <= room:
        without = (room - weights - states) // token_bytes
    if weights + gradients + states - paged + (page if paged else 0) <= room:
        paging = (room - weights - states + paged) // token_bytes
    return without, paging


# %% wrong rounded-up: one token too many
old = "return (room - fixed) // token_bytes"
new = "return math.ceil((room - fixed) / token_bytes)"


# %% right generator: two rooms for tokens, of which an update that doesn't fit leaves nothing
def longest_texts(*, room, weights, gradients, states, paged, token_bytes, page):
    if not paged <= states:
        raise ValueError("more pages than states")
    rest = room - weights - states
    results = []
    for freed, needed in ((0, 0), (paged, min(paged, page))):
        fits = rest + freed - needed >= gradients
        results.append(max(rest + freed, 0) // token_bytes if fits else 0)
    return tuple(results)


# %% wrong page-at-spike: keeps one page on the GPU at the loss
def longest_texts(*, room, weights, gradients, states, paged, token_bytes, page):
    if paged > states:
        raise ValueError("more pages than states")

    def longest(movable):
        fixed = weights + states - movable + min(page, movable)
        return 0 if fixed + gradients > room else (room - fixed) // token_bytes

    return longest(0), longest(paged)


# %% wrong in-addition: takes the paged states for further ones
def longest_texts(*, room, weights, gradients, states, paged, token_bytes, page):
    if paged > states:
        raise ValueError("more pages than states")

    def longest(fixed, at_update):
        return 0 if fixed + gradients + at_update > room else (room - fixed) // token_bytes

    return longest(weights + states + paged, 0), longest(weights + states, min(page, paged))


# %% wrong just-too-much: a moment that needs all bytes doesn't fit (only hidden checks see it)
old = "if fixed + gradients + min(page, movable) > room:"
new = "if fixed + gradients + min(page, movable) >= room:"


# %% wrong any-paged: accepts more paged bytes than there are
def longest_texts(*, room, weights, gradients, states, paged, token_bytes, page):
    def longest(movable):
        fixed = weights + states - movable
        if fixed + gradients + min(page, movable) > room:
            return 0
        return (room - fixed) // token_bytes

    return longest(0), longest(paged)


# %% wrong visible-sizes: is right only for the rooms of the visible checks
old = "return longest(0), longest(paged)"
new = "return (longest(0), longest(paged)) if room == 1000 else (100, 153)"


# %% wrong limit: allows no more tokens than Llama 3.1 was made for
old = "return (room - fixed) // token_bytes"
new = "return min((room - fixed) // token_bytes, 131_072)"


# %% wrong no-page-if-small: needs no room for pages at the update if all of them are less than one
old = "if fixed + gradients + min(page, movable) > room:"
new = "if fixed + gradients + (page if movable >= page else 0) > room:"


# %% wrong one-token: returns at least one token if the update fits
old = "return (room - fixed) // token_bytes"
new = "return max((room - fixed) // token_bytes, 1)"
