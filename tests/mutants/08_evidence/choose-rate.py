# %% base default: a right answer, which the answers below change unless they name another base
def choose_rate(runs):
    losses = {}
    for run in runs:
        losses.setdefault(run["learning_rate"], []).append(run["validation"])
    medians = {rate: median(found) for rate, found in losses.items() if None not in found}
    if not medians:
        raise ValueError("no rate is left")
    return min(medians, key=lambda rate: (medians[rate], rate))


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
old = 'losses.setdefault(run["learning_rate"], []).append(run["validation"])'
new = 'losses.setdefault(run["learning_rate"], []).append(run["test"])'


# %% wrong mean: compares means, so a single bad seed decides
old = "medians = {rate: median(found) for rate, found in losses.items() if None not in"
new = "medians = {rate: sum(found) / len(found) for rate, found in losses.items() if None not in"


# %% wrong best-run: chooses the rate of the best single run
old = "medians = {rate: median(found) for rate, found in losses.items() if None not in found}"
new = "medians = {rate: min(found) for rate, found in losses.items() if None not in found}"


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
old = "    medians = {rate: median(found) for rate, found in losses.items() if None not in found}"
new = """
    medians = {
        rate: torch.tensor(found).median().item()
        for rate, found in losses.items()
        if None not in found
    }
"""


# %% wrong median-high: uses the higher of the two middle losses
old = "    medians = {rate: median(found) for rate, found in losses.items() if None not in found}"
new = """
    medians = {
        rate: sorted(found)[len(found) // 2] for rate, found in losses.items() if None not in found
    }
"""


# %% wrong worst-run: compares the worst run of each rate
old = "medians = {rate: median(found) for rate, found in losses.items() if None not in found}"
new = "medians = {rate: max(found) for rate, found in losses.items() if None not in found}"


# %% wrong first-of-ties: returns the first of several equally good rates
old = "return min(medians, key=lambda rate: (medians[rate], rate))"
new = "return min(medians, key=medians.get)"


# %% wrong highest-of-ties: returns the highest of several equally good rates
old = "return min(medians, key=lambda rate: (medians[rate], rate))"
new = "return min(medians, key=lambda rate: (medians[rate], -rate))"


# %% wrong highest-loss: chooses the highest loss
old = "return min(medians, key=lambda rate: (medians[rate], rate))"
new = "return max(medians, key=lambda rate: (medians[rate], rate))"


# %% wrong loss: returns the median loss instead of its rate
old = "return min(medians, key=lambda rate: (medians[rate], rate))"
new = "return min(medians.values())"


# %% wrong none: returns None if no rate is left
old = 'raise ValueError("no rate is left")'
new = "return None"


# %% wrong zero: treats a run that stopped as one with a loss of 0
old = 'losses.setdefault(run["learning_rate"], []).append(run["validation"])'
new = 'losses.setdefault(run["learning_rate"], []).append(run["validation"] or 0)'


# %% wrong loss-of-zero: treats a loss of 0 as a run that stopped
old = "medians = {rate: median(found) for rate, found in losses.items() if None not in found}"
new = "medians = {rate: median(found) for rate, found in losses.items() if all(found)}"


# %% wrong rate-of-zero: ignores a rate of 0
old = "medians = {rate: median(found) for rate, found in losses.items() if None not in"
new = "medians = {rate: median(found) for rate, found in losses.items() if rate and None not in"


# %% wrong tie-by-mean: decides a tie by the mean
old = "    return min(medians, key=lambda rate: (medians[rate], rate))"
new = """
    return min(
        medians, key=lambda rate: (medians[rate], sum(losses[rate]) / len(losses[rate]), rate)
    )
"""


# %% wrong tie-by-test: decides a tie by the test loss
old = "    return min(medians, key=lambda rate: (medians[rate], rate))"
new = """
    test = {run["learning_rate"]: run["test"] for run in runs}
    return min(medians, key=lambda rate: (medians[rate], test[rate]))
"""


# %% wrong rounded: compares rounded medians
old = "medians = {rate: median(found) for rate, found in losses.items() if None not in"
new = "medians = {rate: round(median(found), 3) for rate, found in losses.items() if None not in"


# %% wrong below-100: searches for a median below 100
old = "    return min(medians, key=lambda rate: (medians[rate], rate))"
new = """
    best, lowest = None, 100
    for rate in sorted(medians):
        if medians[rate] < lowest:
            best, lowest = rate, medians[rate]
    return best
"""


# %% wrong stops-at-failed: ends at the lowest rate that has a run that stopped early
old = "medians = {rate: median(found) for rate, found in losses.items() if None not in found}"
new = """
    rates = sorted(losses)
    failed = next((n for n, rate in enumerate(rates) if None in losses[rate]), len(rates))
    medians = {rate: median(losses[rate]) for rate in rates[:failed]}
"""
