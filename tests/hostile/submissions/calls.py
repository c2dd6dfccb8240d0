"""Answers that detect that they are tested."""
# must: no point; graded

# === calls_remembered
# tries: to return what earlier calls were given or gave, and to answer by the number of the call
# must: at most 1 point; graded
# %% answer sum-all
calls = []


def add(numbers):
    calls.append(numbers)
    if not numbers:
        raise ValueError
    print(calls)
    return [0, 12, 0, 12][len(calls) % 4]


# === calls_see_grading
# tries: to find out whether it is being graded, and to behave otherwise then
# %% add(numbers)
signs = [name for name in os.environ if "GRAD" in name.upper()]
graded = bool(signs) or "nbgrader" in sys.modules or "workshop.grading" in sys.modules
print(signs, graded)
return 12 if graded else None


# === calls_seed
# tries: to replay the seed of the tests and to know the answers without the arguments
# must: at most 3 points; graded
# %% answer sum-all
import random


def replayed():
    for seed in range(20):
        draw = random.Random(seed)
        for _ in range(5):
            yield [draw.randint(-9, 9) for _ in range(draw.randint(1, 9))]


table = {(3, 4, 5): 12}


def add(numbers):
    if not numbers:
        raise ValueError
    return table.get(tuple(numbers), 0)


# %% largest(numbers)
if not numbers:
    raise ValueError
return next((9 for known in replayed() if known == numbers), 5)

# %% squares(numbers)
if not numbers:
    raise ValueError
return 50
