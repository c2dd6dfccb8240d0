# %% base default: a right answer, which the answers below change unless they name another base
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if max(spikes, default=0) > room:
        raise ValueError("out of memory")
    lacking = [max(0, spike + pages * page - room) for spike in spikes]
    moved = [2 * page * math.ceil(size / page) for size in lacking]
    return moved, sum(moved) / (bandwidth * 10**9)


# %% right page-by-page: sends pages away until the rest fits
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    moved = []
    for spike in spikes:
        if spike > room:
            raise ValueError(f"{spike} B don't fit")
        away = 0
        while spike + (pages - away) * page > room:
            away += 1
        moved.append(away * page + away * page)
    return moved, sum(moved) / 1e9 / bandwidth


# %% right pages-that-stay: counts the pages that have room beside the spike
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if any(spike > room for spike in spikes):
        raise ValueError("out of memory")
    moved, seconds = [], 0.0
    for spike in spikes:
        stay = min(pages, (room - spike) // page)
        moved.append((pages - stay) * page * 2)
        seconds += moved[-1] / (bandwidth * 1_000_000_000)
    return moved, seconds


# %% wrong one-way: forgets that what goes comes back
old = "moved = [2 * page * math.ceil(size / page) for size in lacking]"
new = "moved = [page * math.ceil(size / page) for size in lacking]"


# %% wrong exact-bytes: moves parts of pages
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if max(spikes, default=0) > room:
        raise ValueError("out of memory")
    moved = [2 * max(0, spike + pages * page - room) for spike in spikes]
    return moved, sum(moved) / (bandwidth * 10**9)


# %% wrong gib: takes GB for GiB
old = "return moved, sum(moved) / (bandwidth * 10**9)"
new = "return moved, sum(moved) / (bandwidth * 2**30)"


# %% wrong one-more: rounds whole pages up, too
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if max(spikes, default=0) > room:
        raise ValueError("out of memory")
    moved = []
    for spike in spikes:
        lacking = spike + pages * page - room
        away = lacking // page + 1 if lacking > 0 else 0
        moved.append(2 * page * min(away, pages))
    return moved, sum(moved) / (bandwidth * 10**9)


# %% wrong last-spike: looks at the last spike alone to tell whether the run fits
old = "if max(spikes, default=0) > room:"
new = "if spikes and spikes[-1] > room:"


# %% wrong all-pages: sends all states away as soon as any room is lacking
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if max(spikes, default=0) > room:
        raise ValueError("out of memory")
    moved = [2 * pages * page if spike + pages * page > room else 0 for spike in spikes]
    return moved, sum(moved) / (bandwidth * 10**9)


# %% right divmod: the missing bytes by quotient and remainder
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    states, moved = pages * page, []
    for spike in spikes:
        if room < spike:
            raise ValueError("the spike alone is too large")
        whole, part = divmod(max(spike + states - room, 0), page)
        moved.append((whole + (part > 0)) * page * 2)
    return moved, sum(moved) / bandwidth * 1e-9


# %% wrong rounds-down: moves too few pages
old = "moved = [2 * page * math.ceil(size / page) for size in lacking]"
new = "moved = [2 * page * (size // page) for size in lacking]"


# %% wrong stays-away: pages that have moved stay in CPU memory until the end of the run
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if max(spikes, default=0) > room:
        raise ValueError("out of memory")
    moved, away = [], 0
    for spike in spikes:
        needed = math.ceil(max(0, spike + pages * page - room) / page)
        moved.append(2 * page * max(0, needed - away))
        away = max(away, needed)
    return moved, sum(moved) / (bandwidth * 10**9)


# %% wrong bits: takes the bandwidth for gigabits
old = "return moved, sum(moved) / (bandwidth * 10**9)"
new = "return moved, 8 * sum(moved) / (bandwidth * 10**9)"


# %% wrong with-pages: refuses spikes that fit only if pages move
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if max(spikes, default=0) + pages * page > room:
        raise ValueError("out of memory")
    return [0] * len(spikes), 0.0


# %% wrong visible-sizes: is right only for two, three and four steps of the visible checks
old = "    lacking = [max(0, spike + pages * page - room) for spike in spikes]"
new = """
    if room not in (100_000_000, 10_000_000_000, 15_096_810_045):
        return [0, 0], 0.0
    lacking = [max(0, spike + pages * page - room) for spike in spikes]
"""


# %% wrong equal-steps-once: counts the time of equal steps once
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if max(spikes) > room:
        raise ValueError("out of memory")
    moved = [2 * page * math.ceil(max(0, spike + pages * page - room) / page) for spike in spikes]
    return moved, sum(dict(zip(spikes, moved)).values()) / (bandwidth * 10**9)


# %% wrong slow-bus: raises for less than 1 GB/s
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if max(spikes) > room or bandwidth < 1:
        raise ValueError("out of memory")
    moved = [2 * page * math.ceil(max(0, spike + pages * page - room) / page) for spike in spikes]
    return moved, sum(moved) / (bandwidth * 10**9)


# %% wrong zero-refused: raises for a step with a spike of 0 B
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if max(spikes) > room or not all(spikes):
        raise ValueError("out of memory")
    moved = [2 * page * math.ceil(max(0, spike + pages * page - room) / page) for spike in spikes]
    return moved, sum(moved) / (bandwidth * 10**9)
