# %% right numpy: divides means of NumPy, with another limit
def broken_exports(exports, controls):
    try:
        ratios = {
            export["name"]: np.mean(export["divergences"]) / np.mean(controls[export["format"]])
            for export in exports
        }
    except KeyError as missing:
        raise ValueError(f"no control {missing}") from None
    return [name for name, ratio in ratios.items() if ratio > 2.5]


# %% right logarithm: compares logarithms of sums divided by lengths
def broken_exports(exports, controls):
    if any(export["format"] not in controls for export in exports):
        raise ValueError("a control is missing")

    def mean(values):
        return math.log(sum(values) / len(values))

    limit = math.log(math.sqrt(8))
    return [
        export["name"]
        for export in exports
        if mean(export["divergences"]) - mean(controls[export["format"]]) > limit
    ]


# %% right tensors: computes means of tensors, and keeps what is not only rounded
def broken_exports(exports, controls):
    rounded = set()
    for export in exports:
        control = controls.get(export["format"])
        if control is None:
            raise ValueError(export["name"])
        mean = torch.tensor(export["divergences"], dtype=torch.float64).mean()
        if mean <= 3.5 * torch.tensor(control, dtype=torch.float64).mean():
            rounded.add(export["name"])
    return [export["name"] for export in exports if export["name"] not in rounded]


# %% wrong score: chooses exports whose score is more than 10 points below the best
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if export["score"] < max(e["score"] for e in exports) - 0.1:
            broken.append(export["name"])
    return broken


# %% wrong score-below-three-quarters: chooses exports with a score below 75%
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if export["score"] < 0.75:
            broken.append(export["name"])
    return broken


# %% wrong equal: chooses exports with fewer than 90% equal answers
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if export["equal"] < 0.9:
            broken.append(export["name"])
    return broken


# %% wrong any-other-answer: chooses exports with any other answer
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if export["equal"] < 1:
            broken.append(export["name"])
    return broken


# %% wrong one-limit: compares all formats with 0.01 nats
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > 0.01:
            broken.append(export["name"])
    return broken


# %% wrong large-limit: compares all formats with 0.5 nats
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > 0.5:
            broken.append(export["name"])
    return broken


# %% wrong finest-control: compares with the smallest control
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > 3 * min(map(fmean, controls.values())):
            broken.append(export["name"])
    return broken


# %% wrong coarsest-control: compares with the largest control
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > 3 * max(map(fmean, controls.values())):
            broken.append(export["name"])
    return broken


# %% wrong median: compares medians
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if sorted(found)[len(found) // 2] > 3 * sorted(usual)[len(usual) // 2]:
            broken.append(export["name"])
    return broken


# %% wrong sum: compares sums
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if sum(found) > 3 * sum(usual):
            broken.append(export["name"])
    return broken


# %% wrong first-prompt: compares only the first prompt
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if found[0] > 3 * usual[0]:
            broken.append(export["name"])
    return broken


# %% wrong largest: compares the largest divergences
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if max(found) > 3 * max(usual):
            broken.append(export["name"])
    return broken


# %% wrong smallest: compares the smallest divergences
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if min(found) > 3 * min(usual):
            broken.append(export["name"])
    return broken


# %% wrong any-larger: accepts no divergence above the control's
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > fmean(usual):
            broken.append(export["name"])
    return broken


# %% wrong ten-times: accepts up to 10 times the control's divergence
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > 10 * fmean(usual):
            broken.append(export["name"])
    return broken


# %% wrong difference: subtracts in place of dividing
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) - fmean(usual) > 0.05:
            broken.append(export["name"])
    return broken


# %% wrong opposite: returns the exports that are right
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) <= 3 * fmean(usual):
            broken.append(export["name"])
    return broken


# %% wrong sorted: sorts the names
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > 3 * fmean(usual):
            broken.append(export["name"])
    return sorted(broken)


# %% wrong no-control: takes exports without a control to be right
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            continue
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > 3 * fmean(usual):
            broken.append(export["name"])
    return broken


# %% wrong key-error: raises a KeyError if a control is missing
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise KeyError(export["format"])
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > 3 * fmean(usual):
            broken.append(export["name"])
    return broken


# %% right two: uses the limit 2
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > 2 * fmean(usual):
            broken.append(export["name"])
    return broken


# %% right four: uses the limit 4
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) >= 4 * fmean(usual):
            broken.append(export["name"])
    return broken


# %% wrong median-of-control: compares the mean with the control's median
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > 3 * sorted(usual)[len(usual) // 2]:
            broken.append(export["name"])
    return broken


# %% wrong mean-square: compares root mean squares
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(x * x for x in found) > 6.25 * fmean(x * x for x in usual):
            broken.append(export["name"])
    return broken


# %% wrong hundred-prompts: uses only the first 100 prompts
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found[:100]) > 3 * fmean(usual):
            broken.append(export["name"])
    return broken


# %% wrong few-exports: uses only the first 26 exports
def broken_exports(exports, controls):
    broken = []
    for export in exports[:26]:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > 3 * fmean(usual):
            broken.append(export["name"])
    return broken


# %% wrong exactly-two: calls an export broken whose ratio is exactly 2
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) >= 2 * fmean(usual):
            broken.append(export["name"])
    return broken


# %% wrong above-four: calls an export broken only if the ratio is above 4
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > 4 * fmean(usual):
            broken.append(export["name"])
    return broken
