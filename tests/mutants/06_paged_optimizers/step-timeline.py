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
    return held, max(held)


# %% wrong before: what is held before each event
def held_after(events):
    sizes, held = {}, []
    for action, name, *size in events:
        if action not in ("allocate", "free") or (name in sizes) != (action == "free"):
            raise ValueError(name)
        held.append(sum(sizes.values()))
        if action == "allocate":
            sizes[name] = size[0]
        else:
            sizes.pop(name)
    return held, held.index(max(held))


# %% wrong last-peak: of equally high moments the last one
def held_after(events):
    sizes, held, peak = {}, [], 0
    for number, (action, name, *size) in enumerate(events):
        if action not in ("allocate", "free") or (name in sizes) != (action == "free"):
            raise ValueError(name)
        if action == "allocate":
            sizes[name] = size[0]
        else:
            sizes.pop(name)
        held.append(sum(sizes.values()))
        if held[number] >= held[peak]:
            peak = number
    return held, peak


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
