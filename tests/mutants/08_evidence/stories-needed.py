# %% right log2: interpolates in log2, with np.interp between two points
def stories_needed(curve, target):
    if len(curve) == 0:
        raise ValueError("no points")
    sizes = sorted(curve)
    scores = [curve[size] for size in sizes]
    reached = [k for k, score in enumerate(scores) if score >= target]
    if not reached:
        return None
    k = reached[0]
    if k == 0:
        return sizes[0]
    logs = np.log2(sizes[k - 1 : k + 1])
    return 2 ** float(np.interp(target, scores[k - 1 : k + 1], logs))


# %% right while: walks along the curve with natural logarithms
def stories_needed(curve, target):
    left = None
    if not curve:
        raise ValueError("an empty curve")
    for right in sorted(curve):
        if curve[right] >= target:
            if left is None:
                return right
            slope = (math.log(right) - math.log(left)) / (curve[right] - curve[left])
            return math.exp(math.log(left) + slope * (target - curve[left]))
        left = right


# %% wrong linear: interpolates linearly in the number of stories
old = "return few * (many / few) ** share"
new = "return few + (many - few) * share"


# %% wrong unsorted: uses the points in the order of the dict
old = "points = sorted(curve.items())"
new = "points = list(curve.items())"


# %% wrong measured: returns the first measured number that reaches the target
old = """
            share = (target - low) / (high - low)
            return few * (many / few) ** share
"""
new = "            return float(many)"


# %% wrong last-time: returns the last place where the curve rises to the target
def stories_needed(curve, target):
    if not curve:
        raise ValueError("the curve has no points")
    points = sorted(curve.items())
    needed = float(points[0][0]) if points[0][1] >= target else None
    for (few, low), (many, high) in pairwise(points):
        if low < target <= high:
            needed = few * (many / few) ** ((target - low) / (high - low))
    return needed


# %% wrong extrapolated: continues the first line to fewer stories
old = "if points[0][1] >= target:"
new = "if len(points) == 1:"
old = "return float(points[0][0])"
new = "return float(points[0][0]) if points[0][1] >= target else None"


# %% wrong largest: returns the largest number if the target is never reached
old = "return None"
new = "return float(points[-1][0])"


# %% wrong above-only: wants a score above the target
old = "if points[0][1] >= target:"
new = "if points[0][1] > target:"
old = "if high >= target:"
new = "if high > target:"


# %% wrong flat: divides by the rise of each part of the curve, even if it is 0
old = "if high >= target:"
new = "share = (target - low) / (high - low)"
old = "            share = (target - low) / (high - low)"
new = "        if 0 <= share <= 1:"


# %% wrong logarithm: returns the logarithm of the number of stories
old = "return few * (many / few) ** share"
new = "return math.log2(few) + share * math.log2(many / few)"


# %% wrong rounded-up: rounds up to whole stories
old = "return few * (many / few) ** share"
new = "return math.ceil(few * (many / few) ** share)"


# %% wrong interp: gives the whole curve to np.interp, as if it always rose
def stories_needed(curve, target):
    if not curve:
        raise ValueError("the curve has no points")
    sizes = sorted(curve)
    scores = [curve[size] for size in sizes]
    if target > max(scores):
        return None
    return 2 ** float(np.interp(target, scores, np.log2(sizes)))


# %% wrong no-error: returns None for a curve without points
old = 'raise ValueError("the curve has no points")'
new = "return None"


# %% wrong running-best: replaces each score by the best score so far
old = "    points = sorted(curve.items())"
new = """
    sizes = sorted(curve)
    best = np.maximum.accumulate([curve[size] for size in sizes]).tolist()
    points = list(zip(sizes, best))
"""


# %% wrong no-dips: leaves out points at which the score falls
old = "    points = sorted(curve.items())"
new = """
    points = []
    for size in sorted(curve):
        if not points or curve[size] >= points[-1][1]:
            points.append((size, curve[size]))
"""


# %% wrong tolerance: counts a score just below the target as reached
old = "if points[0][1] >= target:"
new = "if points[0][1] >= target - 1e-4:"
old = "if high >= target:"
new = "if high >= target - 1e-4:"


# %% wrong shares-only: refuses scores that are not between 0 and 1
old = "    points = sorted(curve.items())"
new = """
    if not all(0 <= score <= 1 for score in curve.values()):
        raise ValueError("scores are shares")
    points = sorted(curve.items())
"""


# %% wrong log-of-one: divides by the logarithm of the number of stories
old = "return few * (many / few) ** share"
new = "return few ** (1 + share * (math.log(many, few) - 1))"


# %% wrong rise-from-0: measures the rise from 0 if the score before it is negative
old = "share = (target - low) / (high - low)"
new = "share = (target - max(low, 0)) / (high - max(low, 0))"


# %% wrong percent: takes a target above 2 for a percentage
old = "    points = sorted(curve.items())"
new = "    points, target = sorted(curve.items()), target / 100 if target > 2 else target"
