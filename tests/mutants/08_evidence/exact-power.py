# %% right by-changes: adds up over the number of changes, then over the gained stories
def power(stories, gained, lost):
    if stories <= 0 or gained < 0 or lost < 0 or gained + lost > 1:
        raise ValueError(f"{stories}, {gained}, {lost}")
    changing, total = gained + lost, 0.0

    def binomial(k, n, p):
        return math.comb(n, k) * p**k * (1 - p) ** (n - k)

    if changing == 0:
        return total
    for n in range(stories + 1):
        below, most = 0.0, -1
        for k in range(n // 2 + 1):
            below += math.comb(n, k) / 2**n
            if 2 * below < 0.05:
                most = k
        ends = [*range(most + 1), *range(n - most, n + 1)]
        share = sum(binomial(k, n, gained / changing) for k in ends)
        total += binomial(n, stories, changing) * share
    return total


# %% right step-by-step: follows the probabilities of all results from story to story
def power(stories, gained, lost):
    from collections import defaultdict

    same = 1 - gained - lost
    if stories < 1 or gained < 0 or lost < 0 or same < 0:
        raise ValueError("these shares can't be")
    results = {(0, 0): 1.0}
    for _ in range(stories):
        following = defaultdict(float)
        for (a, b), probability in results.items():
            following[a + 1, b] += gained * probability
            following[a, b + 1] += lost * probability
            following[a, b] += same * probability
        results = following

    def significant(a, b):
        n = a + b
        uneven = [k for k in range(n + 1) if abs(2 * k - n) >= abs(a - b)]
        return 20 * sum(math.comb(n, k) for k in uneven) < 2**n

    return sum(probability for (a, b), probability in results.items() if significant(a, b))


# %% wrong one-direction: counts only results in the right direction
old = "if p_value(a, b) < 0.05:"
new = "if p_value(a, b) < 0.05 and (a > b) == (gained > lost):"


# %% wrong one-sided: uses the one-sided p-value
old = "return min(1.0, 2 * ways / 2 ** (a + b))"
new = "return ways / 2 ** (a + b)"


# %% wrong fixed-changes: assumes that the mean number of stories changes in each measurement
def power(stories, gained, lost):
    if stories < 1 or min(gained, lost) < 0 or gained + lost > 1:
        raise ValueError("not allowed")
    if gained + lost == 0:
        return 0.0
    n, share, found = round(stories * (gained + lost)), gained / (gained + lost), 0.0
    for a in range(n + 1):
        ways = sum(math.comb(n, k) for k in range(min(a, n - a) + 1))
        if 2 * ways / 2**n < 0.05:
            found += math.comb(n, a) * share**a * (1 - share) ** (n - a)
    return found


# %% wrong missed: returns the probability that nothing is found
old = "return found"
new = "return 1 - found"


# %% wrong simulated: estimates the power from 2,000 random measurements
def power(stories, gained, lost):
    if stories < 1 or min(gained, lost) < 0 or gained + lost > 1:
        raise ValueError("not allowed")

    def p_value(a, b):
        ways = sum(math.comb(a + b, k) for k in range(min(a, b) + 1))
        return min(1.0, 2 * ways / 2 ** (a + b))

    shares = [gained, lost, max(0.0, 1 - gained - lost)]
    results = np.random.default_rng(0).multinomial(stories, shares, size=2000).tolist()
    return sum(p_value(a, b) < 0.05 for a, b, _ in results) / 2000


# %% wrong no-rest: leaves out the probability of the stories that don't change
old = """
                rest = (1 - gained - lost) ** (stories - a - b)
                found += ways * gained**a * lost**b * rest
"""
new = "                found += ways * gained**a * lost**b"


# %% wrong no-ways: leaves out the number of ways to choose the stories
old = "                ways = math.comb(stories, a) * math.comb(stories - a, b)"
new = ""
old = "found += ways * gained**a * lost**b * rest"
new = "found += gained**a * lost**b * rest"


# %% wrong all-change: assumes that all stories change
def power(stories, gained, lost):
    if stories < 1 or min(gained, lost) < 0 or gained + lost > 1:
        raise ValueError("not allowed")
    if gained + lost == 0:
        return 0.0
    share, found = gained / (gained + lost), 0.0
    for a in range(stories + 1):
        ways = sum(math.comb(stories, k) for k in range(min(a, stories - a) + 1))
        if 2 * ways / 2**stories < 0.05:
            found += math.comb(stories, a) * share**a * (1 - share) ** (stories - a)
    return found


# %% wrong negative: accepts negative shares
old = "if stories < 1 or min(gained, lost) < 0 or gained + lost > 1:"
new = "if stories < 1 or gained + lost > 1:"


# %% wrong above-one: accepts shares whose sum is above 1
old = "if stories < 1 or min(gained, lost) < 0 or gained + lost > 1:"
new = "if stories < 1 or min(gained, lost) < 0:"


# %% wrong nothing-changes: divides by 0 if nothing changes
old = "found = 0.0"
new = "found, expected = 0.0, gained / (gained + lost)"
old = "return found"
new = "return found if expected >= 0 else 0.0"


# %% wrong single-story: refuses a measurement with 1 story
old = "if stories < 1 or min(gained, lost) < 0 or gained + lost > 1:"
new = "if stories < 2 or min(gained, lost) < 0 or gained + lost > 1:"


# %% wrong tolerance: accepts a sum of the shares up to 1.01
old = "if stories < 1 or min(gained, lost) < 0 or gained + lost > 1:"
new = "if stories < 1 or min(gained, lost) < 0 or gained + lost > 1.01:"


# %% wrong int64: counts the ways with factorials of int64, which overflow
old = "                ways = math.comb(stories, a) * math.comb(stories - a, b)"
new = """
                fact = np.cumprod([1, *range(1, stories + 1)]).tolist()
                ways = fact[stories] / (fact[a] * fact[b] * fact[stories - a - b])
"""


# %% wrong rounded-p: rounds the p-value to three digits before it is compared
old = "if p_value(a, b) < 0.05:"
new = "if round(p_value(a, b), 3) < 0.05:"
