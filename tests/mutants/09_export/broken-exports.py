# %% base default: a right answer, which the answers below change unless they name another base
def broken_exports(exports, controls):
    broken = []
    for export in exports:
        if export["format"] not in controls:
            raise ValueError(f"no control for {export['format']}")
        usual, found = controls[export["format"]], export["divergences"]
        if fmean(found) > 3 * fmean(usual):
            broken.append(export["name"])
    return broken


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
old = "if fmean(found) > 3 * fmean(usual):"
new = 'if export["score"] < max(e["score"] for e in exports) - 0.1:'


# %% wrong score-below-three-quarters: chooses exports with a score below 75%
old = "if fmean(found) > 3 * fmean(usual):"
new = 'if export["score"] < 0.75:'


# %% wrong equal: chooses exports with fewer than 90% equal answers
old = "if fmean(found) > 3 * fmean(usual):"
new = 'if export["equal"] < 0.9:'


# %% wrong any-other-answer: chooses exports with any other answer
old = "if fmean(found) > 3 * fmean(usual):"
new = 'if export["equal"] < 1:'


# %% wrong one-limit: compares all formats with 0.01 nats
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found) > 0.01:"


# %% wrong large-limit: compares all formats with 0.5 nats
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found) > 0.5:"


# %% wrong finest-control: compares with the smallest control
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found) > 3 * min(map(fmean, controls.values())):"


# %% wrong coarsest-control: compares with the largest control
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found) > 3 * max(map(fmean, controls.values())):"


# %% wrong median: compares medians
old = "if fmean(found) > 3 * fmean(usual):"
new = "if sorted(found)[len(found) // 2] > 3 * sorted(usual)[len(usual) // 2]:"


# %% wrong sum: compares sums
old = "if fmean(found) > 3 * fmean(usual):"
new = "if sum(found) > 3 * sum(usual):"


# %% wrong first-prompt: compares only the first prompt
old = "if fmean(found) > 3 * fmean(usual):"
new = "if found[0] > 3 * usual[0]:"


# %% wrong largest: compares the largest divergences
old = "if fmean(found) > 3 * fmean(usual):"
new = "if max(found) > 3 * max(usual):"


# %% wrong smallest: compares the smallest divergences
old = "if fmean(found) > 3 * fmean(usual):"
new = "if min(found) > 3 * min(usual):"


# %% wrong any-larger: accepts no divergence above the control's
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found) > fmean(usual):"


# %% wrong ten-times: accepts up to 10 times the control's divergence
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found) > 10 * fmean(usual):"


# %% wrong difference: subtracts in place of dividing
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found) - fmean(usual) > 0.05:"


# %% wrong opposite: returns the exports that are right
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found) <= 3 * fmean(usual):"


# %% wrong sorted: sorts the names
old = "return broken"
new = "return sorted(broken)"


# %% wrong no-control: takes exports without a control to be right
old = """
raise ValueError(f"no control for {export['format']}")
"""
new = "continue"


# %% wrong key-error: raises a KeyError if a control is missing
old = """
raise ValueError(f"no control for {export['format']}")
"""
new = 'raise KeyError(export["format"])'


# %% right two: uses the limit 2
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found) > 2 * fmean(usual):"


# %% right four: uses the limit 4
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found) >= 4 * fmean(usual):"


# %% wrong median-of-control: compares the mean with the control's median
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found) > 3 * sorted(usual)[len(usual) // 2]:"


# %% wrong mean-square: compares root mean squares
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(x * x for x in found) > 6.25 * fmean(x * x for x in usual):"


# %% wrong hundred-prompts: uses only the first 100 prompts
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found[:100]) > 3 * fmean(usual):"


# %% wrong few-exports: uses only the first 26 exports
old = "for export in exports:"
new = "for export in exports[:26]:"


# %% wrong exactly-two: calls an export broken whose ratio is exactly 2
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found) >= 2 * fmean(usual):"


# %% wrong above-four: calls an export broken only if the ratio is above 4
old = "if fmean(found) > 3 * fmean(usual):"
new = "if fmean(found) > 4 * fmean(usual):"


# %% wrong rounded: rounds the means to six decimals
old = "if fmean(found) > 3 * fmean(usual):"
new = "if round(fmean(found), 6) > 3 * round(fmean(usual), 6):"
