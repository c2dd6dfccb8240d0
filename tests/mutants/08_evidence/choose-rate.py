# %% right sorted: sorts pairs of median and rate, and stops at runs without a loss
def choose_rate(runs):
    stopped = {run["learning_rate"] for run in runs if run["validation"] is None}
    rates = sorted({run["learning_rate"] for run in runs} - stopped)
    if len(rates) == 0:
        raise ValueError("no usable rate")

    def middle(rate):
        found = sorted(run["validation"] for run in runs if run["learning_rate"] == rate)
        half = len(found) // 2
        return found[half] if len(found) % 2 else (found[half - 1] + found[half]) / 2

    return sorted((middle(rate), rate) for rate in rates)[0][1]


# %% right infinite: gives a run that stopped an infinite loss, and uses NumPy
def choose_rate(runs):
    best, lowest = None, math.inf
    for rate in sorted({run["learning_rate"] for run in runs}, reverse=True):
        mine = [run["validation"] for run in runs if run["learning_rate"] == rate]
        value = float(np.median(mine)) if all(loss is not None for loss in mine) else math.inf
        if value <= lowest and value < math.inf:
            best, lowest = rate, value
    if best is None:
        raise ValueError("nothing to choose from")
    return best


# %% right pandas: groups the runs with pandas
def choose_rate(runs):
    import pandas as pd

    if not runs:
        raise ValueError("there are no runs")
    groups = pd.DataFrame(runs).groupby("learning_rate")["validation"]
    medians = groups.median()[groups.count() == groups.size()]
    return float(medians.idxmin())


# %% wrong test-loss: chooses by the test loss
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["test"])
    medians = {rate: median(found) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=lambda rate: (medians[rate], rate))


# %% wrong mean: compares means, so a single bad seed decides
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: sum(found) / len(found) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=lambda rate: (medians[rate], rate))


# %% wrong best-run: chooses the rate of the best single run
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: min(found) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=lambda rate: (medians[rate], rate))


# %% wrong without-stopped-runs: ignores the runs that stopped instead of their rates
def choose_rate(runs):
    losses = {}
    for run in runs:
        if run["validation"] is not None:
            losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: median(found) for rate, found in losses.items()}
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=lambda rate: (medians[rate], rate))


# %% wrong median-low: uses torch.median, the lower of the two middle losses
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {
        rate: torch.tensor(found).median().item()
        for rate, found in losses.items()
        if None not in found
    }
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=lambda rate: (medians[rate], rate))


# %% wrong median-high: uses the higher of the two middle losses
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {
        rate: sorted(found)[len(found) // 2] for rate, found in losses.items() if None not in found
    }
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=lambda rate: (medians[rate], rate))


# %% wrong worst-run: compares the worst run of each rate
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: max(found) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=lambda rate: (medians[rate], rate))


# %% wrong first-of-ties: returns the first of several equally good rates
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: median(found) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=medians.get)


# %% wrong highest-of-ties: returns the highest of several equally good rates
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: median(found) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=lambda rate: (medians[rate], -rate))


# %% wrong highest-loss: chooses the highest loss
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: median(found) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    return max(medians, key=lambda rate: (medians[rate], rate))


# %% wrong loss: returns the median loss instead of its rate
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: median(found) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    return min(medians.values())


# %% wrong none: returns None if no rate is left
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: median(found) for rate, found in losses.items() if None not in found}
    if not medians:
        return None
    return min(medians, key=lambda rate: (medians[rate], rate))


# %% wrong zero: treats a run that stopped as one with a loss of 0
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"] or 0)
    medians = {rate: median(found) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=lambda rate: (medians[rate], rate))


# %% wrong loss-of-zero: treats a loss of 0 as a run that stopped
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: median(found) for rate, found in losses.items() if all(found)}
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=lambda rate: (medians[rate], rate))


# %% wrong rate-of-zero: ignores a rate of 0
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: median(found) for rate, found in losses.items() if rate and None not in found}
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=lambda rate: (medians[rate], rate))


# %% wrong tie-by-mean: decides a tie by the mean
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: median(found) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    return min(
        medians, key=lambda rate: (medians[rate], sum(losses[rate]) / len(losses[rate]), rate)
    )


# %% wrong tie-by-test: decides a tie by the test loss
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: median(found) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    test = {run["learning_rate"]: run["test"] for run in runs}
    return min(medians, key=lambda rate: (medians[rate], test[rate]))


# %% wrong rounded: compares rounded medians
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: round(median(found), 3) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=lambda rate: (medians[rate], rate))


# %% wrong below-100: searches for a median below 100
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: median(found) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    best, lowest = None, 100
    for rate in sorted(medians):
        if medians[rate] < lowest:
            best, lowest = rate, medians[rate]
    return best
