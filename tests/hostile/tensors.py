"""A second small assignment, for attacks that need tensors, asserts or a withheld answer.

The answer to the first task is in `course_utils.lora`, which the assignment withholds. The second
task is about a tensor. The third task is checked by `assert`, as in exercises of other courses.
"""

from __future__ import annotations

from typing import Any

from tests.assignment import cell, document
from workshop.publishing import notebook_check

NAME = "08_tensors"
OPENING = "tensors-opening"

PROMPT = "## 8.{number} {title}\n●●○ · 6 min · {points}\n\nReturn {what}.\n"
STUB = '''\
def {signature}:
    """{what}."""
    ### BEGIN SOLUTION
    {solution}
    ### END SOLUTION
'''
CHECK = "from course_utils.exercise.checks import check\n\n"
CHECK_TENSORS = f"import torch\n\n{CHECK}"
TASKS = {
    "tensors-rank": (
        "rank_even(d_in: int, d_out: int) -> float",
        "The rank at which A and B have as many parameters as W",
        "return d_in * d_out / (d_in + d_out)",
        CHECK
        + """\
check(rank_even, 8, 8).like(0.0)
""",
        CHECK
        + """\
check(rank_even, 1000, 1000).gives(500.0)
### BEGIN HIDDEN TESTS
from course_utils.lora import break_even_rank

for d_in, d_out in [(8, 8), (64, 8), (1, 5000), (4096, 11_008), (768, 3072)]:
    check(rank_even, d_in, d_out).gives(break_even_rank(d_in, d_out))
### END HIDDEN TESTS
""",
    ),
    "tensors-scale": (
        "scale_rows(x: torch.Tensor) -> torch.Tensor",
        "Each row divided by its largest absolute value",
        "return x / x.abs().amax(dim=1, keepdim=True)",
        CHECK_TENSORS
        + """\
check(scale_rows, torch.ones(2, 3)).like(torch.ones(2, 3))
""",
        CHECK_TENSORS
        + """\
check(scale_rows, torch.tensor([[1.0, -2.0]])).gives(torch.tensor([[0.5, -1.0]]))
### BEGIN HIDDEN TESTS
for seed in range(5):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
    expected = x / x.abs().amax(dim=1, keepdim=True)
    assert scale_rows(x).allclose(expected)
### END HIDDEN TESTS
""",
    ),
    "tensors-even": (
        "count_even(numbers: list[int]) -> int",
        "How many of the numbers are even",
        "return sum(n % 2 == 0 for n in numbers)",
        """\
assert isinstance(count_even([1, 2]), int)
""",
        """\
assert count_even([1, 2, 4]) == 2
### BEGIN HIDDEN TESTS
for numbers in ([], [7], list(range(20)), [3, 5, 8, 8], [0] * 99):
    assert count_even(numbers) == sum(n % 2 == 0 for n in numbers)
### END HIDDEN TESTS
""",
    ),
}


def notebook() -> dict[str, Any]:
    """Return the assignment's solution: three functions, 9 points."""
    cells = [
        cell(OPENING, "# Exercise 08: Tensors", kind="markdown"),
        cell("setup", notebook_check.SETUP_CELL),
        cell("imports", "import torch"),
    ]
    for number, (name, (signature, what, solution, form, values)) in enumerate(TASKS.items(), 1):
        words = {"signature": signature, "what": what, "solution": solution}
        prompt = {"number": number, "title": name, "points": "3 points", "what": what.lower()}
        cells += [
            cell(f"{name}-prompt", PROMPT.format(**prompt), kind="markdown"),
            cell(name, STUB.format(**words), answer=True),
            cell(f"{name}-form", form, points=1),
            cell(f"{name}-values", values, points=2),
        ]
    return document(cells, qlora_course={"withheld": ["course_utils.lora"]})
