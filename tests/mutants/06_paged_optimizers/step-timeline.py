# %% base default: a right answer, which the answers below change unless they name another base
def held_after(events):
    sizes, held = {}, []
    for action, name, *size in events:
        if action not in ("allocate", "free") or (name in sizes) != (action == "free"):
            raise ValueError(name)
        if action == "allocate":
            sizes[name] = size[0]
        else:
            sizes.pop(name)
        held.append(sum(sizes.values()))
    return held, held.index(max(held))


# %% right running-total: keeps a total and the highest so far, and checks before it counts
def held_after(events):
    sizes = {}
    total = 0
    held = []
    peak = 0
    for number, event in enumerate(events):
        if event[0] == "allocate":
            if event[1] in sizes:
                raise ValueError("held already")
            sizes[event[1]] = event[2]
            total += event[2]
        elif event[0] == "free":
            if event[1] not in sizes:
                raise ValueError("not held")
            total -= sizes.pop(event[1])
        else:
            raise ValueError("unknown action")
        held.append(total)
        if total > held[peak]:
            peak = number
    return held, peak


# %% right match: structural patterns, and a search for the maximum
def held_after(events):
    held, sizes = [], {}
    for event in events:
        match event:
            case ("allocate", name, size) if name not in sizes:
                sizes[name] = size
            case ("free", name) if name in sizes:
                sizes.pop(name)
            case _:
                raise ValueError(event)
        held.append(sum(sizes.values()))
    return held, max(range(len(held)), key=held.__getitem__)


# %% wrong peak-bytes: returns the highest bytes instead of when they are held
old = "return held, held.index(max(held))"
new = "return held, max(held)"


# %% wrong before: what is held before each event
old = '        if action == "allocate":'
new = """
        held.append(sum(sizes.values()))
        if action == "allocate":
"""
old = "        held.append(sum(sizes.values()))"
new = ""


# %% wrong last-peak: of equally high moments the last one
old = "sizes, held = {}, []"
new = "sizes, held, peak = {}, [], 0"
old = "for action, name, *size in events:"
new = "for number, (action, name, *size) in enumerate(events):"
old = "    return held, held.index(max(held))"
new = """
        if held[number] >= held[peak]:
            peak = number
    return held, peak
"""


# %% wrong once-only: a name that was freed can't be allocated again
def held_after(events):
    sizes, freed, total, held = {}, set(), 0, []
    for action, name, *size in events:
        if action == "allocate":
            if name in sizes:
                raise ValueError(f"{name} is there already")
            sizes[name] = size[0]
            total += size[0]
        elif action == "free":
            if name not in sizes or name in freed:
                raise ValueError(f"{name} isn't there")
            freed.add(name)
            total -= sizes[name]
        else:
            raise ValueError(action)
        held.append(total)
    return held, held.index(max(held))


# %% wrong free-twice: accepts that a name is freed a second time
def held_after(events):
    sizes, total, held = {}, 0, []
    for action, name, *size in events:
        if action == "allocate":
            if sizes.get(name):
                raise ValueError(f"{name} is there already")
            sizes[name] = size[0]
            total += size[0]
        elif action == "free":
            if name not in sizes:
                raise ValueError(f"{name} isn't there")
            total -= sizes[name]
            sizes[name] = 0
        else:
            raise ValueError(action)
        held.append(total)
    return held, held.index(max(held))


# %% wrong held-if-bytes: takes a name for free while it holds 0 B
def held_after(events):
    sizes, held = {}, []
    for action, name, *size in events:
        if action == "allocate":
            if sizes.get(name):
                raise ValueError(f"{name} is there already")
            sizes[name] = size[0]
        elif action == "free":
            if not sizes.get(name):
                raise ValueError(f"{name} isn't there")
            del sizes[name]
        else:
            raise ValueError(action)
        held.append(sum(sizes.values()))
    return held, held.index(max(held))


# %% right accumulate: checks the names first, and adds up the changes
def held_after(events):
    from itertools import accumulate

    sizes, changes = {}, []
    for event in events:
        if len(event) == 3 and event[0] == "allocate" and event[1] not in sizes:
            sizes[event[1]] = event[2]
            changes.append(event[2])
        elif len(event) == 2 and event[0] == "free" and event[1] in sizes:
            changes.append(-sizes.pop(event[1]))
        else:
            raise ValueError(f"this event is impossible: {event}")
    held = list(accumulate(changes))
    return held, min(n for n, size in enumerate(held) if size == max(held))


# %% wrong never-freed: adds the bytes of every tensor, and subtracts none
def held_after(events):
    alive, total, held = set(), 0, []
    for action, name, *size in events:
        if action not in ("allocate", "free") or (name in alive) != (action == "free"):
            raise ValueError(name)
        if action == "allocate":
            alive.add(name)
            total += size[0]
        else:
            alive.remove(name)
        held.append(total)
    return held, held.index(max(held))


# %% wrong from-one: counts the events from 1
old = "return held, held.index(max(held))"
new = "return held, held.index(max(held)) + 1"


# %% wrong any-action: treats every other action as freeing
old = 'if action not in ("allocate", "free") or (name in sizes) != (action == "free"):'
new = 'if (name in sizes) != (action != "allocate"):'


# %% wrong visible-sizes: knows the visible step by heart, and is right only for short ones
def held_after(events):
    if len(events) == 10:
        return [1000, 1080, 1380, 1880, 1910, 1410, 1430, 1130, 1100, 1080], 4
    if events[0] != ("allocate", "weights", 8) or events[1][:2] != ("free", "weights"):
        raise ValueError("unknown events")
    return [8, 0], 0


# %% wrong above-zero: searches for more than 0 B, and else returns the index -1
old = "sizes, held = {}, []"
new = "sizes, held, most, peak = {}, [], 0, -1"
old = "for action, name, *size in events:"
new = "for number, (action, name, *size) in enumerate(events):"
old = "    return held, held.index(max(held))"
new = """
        if held[-1] > most:
            most, peak = held[-1], number
    return held, peak
"""


# %% wrong second-first: searches for the maximum from the second event, and from 0 B
old = "sizes, held = {}, []"
new = "sizes, held, most, peak = {}, [], 0, 0"
old = "    return held, held.index(max(held))"
new = """
    for number in range(1, len(held)):
        if held[number] > most:
            most, peak = held[number], number
    return held, peak
"""


# %% wrong nothing-freed: accepts that a name is freed while nothing is allocated
old = '        if action not in ("allocate", "free") or (name in sizes) != (action == "free"):'
new = """
        if action not in ("allocate", "free"):
            raise ValueError(action)
        if sizes and (name in sizes) != (action == "free"):
"""
old = "sizes.pop(name)"
new = "sizes.pop(name, 0)"


# %% wrong prefixes: accepts actions that begin with the right word
old = """
        if action not in ("allocate", "free") or (name in sizes) != (action == "free"):
            raise ValueError(name)
        if action == "allocate":
"""
new = """
        starts = action.startswith("allocate")
        if not (starts or action.startswith("free")) or (name in sizes) == starts:
            raise ValueError(name)
        if starts:
"""
