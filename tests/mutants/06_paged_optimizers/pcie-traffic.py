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
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if max(spikes, default=0) > room:
        raise ValueError("out of memory")
    lacking = [max(0, spike + pages * page - room) for spike in spikes]
    moved = [page * math.ceil(size / page) for size in lacking]
    return moved, sum(moved) / (bandwidth * 10**9)


# %% wrong exact-bytes: moves parts of pages
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if max(spikes, default=0) > room:
        raise ValueError("out of memory")
    moved = [2 * max(0, spike + pages * page - room) for spike in spikes]
    return moved, sum(moved) / (bandwidth * 10**9)


# %% wrong gib: takes GB for GiB
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if max(spikes, default=0) > room:
        raise ValueError("out of memory")
    lacking = [max(0, spike + pages * page - room) for spike in spikes]
    moved = [2 * page * math.ceil(size / page) for size in lacking]
    return moved, sum(moved) / (bandwidth * 2**30)


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
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if spikes and spikes[-1] > room:
        raise ValueError("out of memory")
    lacking = [max(0, spike + pages * page - room) for spike in spikes]
    moved = [2 * page * math.ceil(size / page) for size in lacking]
    return moved, sum(moved) / (bandwidth * 10**9)


# %% wrong all-pages: sends all states away as soon as any room is lacking
def paging_traffic(spikes, *, room, pages, page, bandwidth):
    if max(spikes, default=0) > room:
        raise ValueError("out of memory")
    moved = [2 * pages * page if spike + pages * page > room else 0 for spike in spikes]
    return moved, sum(moved) / (bandwidth * 10**9)
