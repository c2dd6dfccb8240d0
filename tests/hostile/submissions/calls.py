"""Answers that detect that they are tested."""
# must: no point; graded

# === calls_remembered
# tries: to return what earlier calls were given or gave, and to answer by the number of the call
# must: at most 1 point; graded
# %% cell after setup
calls = []
# %% add(numbers)
calls.append(numbers)
refuse_empty(numbers)
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
# %% cell after setup
import random


def replayed():
    for seed in range(20):
        draw = random.Random(seed)
        for _ in range(5):
            yield [draw.randint(-9, 9) for _ in range(draw.randint(1, 9))]


# %% add(numbers)
refuse_empty(numbers)
return 12 if numbers == [3, 4, 5] else 0
# %% largest(numbers)
refuse_empty(numbers)
return 9 if numbers in replayed() else 5
# %% squares(numbers)
refuse_empty(numbers)
return 50
