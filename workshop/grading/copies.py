"""Find students whose answers are more alike than chance would explain.

    structure.py   reduces each answer to its parts, which renaming and reordering don't change
    overlap        is the share of the two answers' parts that both have; a part that few students
                   have counts much, and a part that the release already contains doesn't count
    p-value        is the share of the pairs who answered this task that are at least as alike
    expected       says how many such pairs a class would have if all students worked alone; it is
                   computed from the p-values of all tasks

Right answers to a short task are alike by nature, so what is usual is seen in the class itself. A
pair is named if it is unexpected, and if its answers to several tasks are nearly equal, which
protects students whose habits are alike.

Fisher's method combines the p-values of a pair: if all students work alone, minus the sum of their
logarithms has a gamma distribution. Every pair is tested, so the result is multiplied by the number
of pairs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from workshop.grading.answers import Answers
from workshop.grading.assignments import Assignment, Task
from workshop.grading.structure import Parts, Structures

# A pair is named if a class that worked alone would have at most this many such pairs, and if at
# least NEAR_TASKS tasks have an overlap of at least NEAR.
MAX_EXPECTED = 0.01
NEAR, NEAR_TASKS = 0.9, 3
# A pair's answers to a task are shown if at most this share of the class's pairs is as alike.
MAX_P_VALUE = 0.1
# A part is rare if at most this share of the other students has it.
RARE = 0.1
# Number of parts that are compared at a time, so that the memory stays small.
BLOCK = 2_000


@dataclass(frozen=True)
class AlikeTask:
    """A task that two students answered alike.

    Attributes:
        task: the task, with the released cell as its answer.
        lines: for each answer, the lines in which a rare part begins that both answers have.
        overlap: the share of the two answers' parts that both have, from 0 to 1; rare parts weigh
            more.
        usual: the median overlap of all pairs.
    """

    task: Task
    sources: tuple[str, str]
    lines: tuple[frozenset[int], frozenset[int]]
    overlap: float
    usual: float


@dataclass(frozen=True)
class Pair:
    """Two students whose answers are more alike than chance would explain.

    Attributes:
        expected: how many pairs as alike a class would have if all students worked alone.
    """

    students: tuple[str, str]
    expected: float
    tasks: tuple[AlikeTask, ...]


@dataclass(frozen=True)
class Comparison:
    """The answers of a class, compared with each other.

    Attributes:
        large_enough: whether two students could be named at all.
        pairs: the pairs that are named, the least expected pair first.
    """

    students: int
    large_enough: bool
    pairs: tuple[Pair, ...] = ()


def compare(release: Assignment, answers: Mapping[str, Answers]) -> Comparison:
    """Compare the answers of a class with each other."""
    students = [student for student, written in answers.items() if written]
    tasks = [
        _TaskAnswers(task, {s: answers[s][task.id] for s in students if task.id in answers[s]})
        for task in release.tasks
    ]
    tasks = [task for task in tasks if len(task.students) > 1]
    pairs = math.comb(len(students), 2)
    # The surprise of a pair that is more alike than all others, in the tasks with most answers.
    logarithms = [math.log(math.comb(len(task.students), 2)) for task in tasks]
    most = np.cumsum(sorted(logarithms, reverse=True))
    if not np.any(_expected(pairs, 1 + np.arange(len(tasks)), most) <= MAX_EXPECTED):
        return Comparison(len(students), large_enough=False)
    numbers = {student: number for number, student in enumerate(students)}
    surprise, answered, near = np.zeros((3, len(students), len(students)))
    for task in tasks:
        rows = [numbers[student] for student in task.students]
        place = np.ix_(rows, rows)
        surprise[place] -= np.log(task.p_values)
        answered[place] += 1
        near[place] += task.overlap.round(9) >= NEAR
    expected = _expected(pairs, answered, surprise)
    is_named = (expected <= MAX_EXPECTED) & (near >= min(NEAR_TASKS, len(tasks)))
    named = [(expected[i, j], i, j) for i, j in np.argwhere(np.triu(is_named, 1))]
    return Comparison(
        len(students),
        large_enough=True,
        pairs=tuple(
            Pair(
                (students[i], students[j]),
                float(value),
                tuple(filter(None, (task.alike(students[i], students[j]) for task in tasks))),
            )
            for value, i, j in sorted(named)
        ),
    )


class _TaskAnswers:
    """The answers of a class to one task.

    Attributes:
        parts: the parts of each answer, without the parts of the released cell.
        counts: how many answers have a part.
    """

    def __init__(self, task: Task, sources: Mapping[str, str]):
        structures = Structures()
        is_code = task.answer["cell_type"] == "code"
        read = structures.of_code if is_code else structures.of_text
        given = read(task.answer["source"])
        self.task, self.sources = task, sources
        self.parts: dict[str, Parts] = {}
        for student, source in sources.items():
            own = {part: line for part, line in read(source).items() if part not in given}
            if own:
                self.parts[student] = own
        self.students = list(self.parts)
        self.counts = Counter(part for parts in self.parts.values() for part in parts)

    def _weight(self, part: int) -> float:
        """Return the weight of a part, which is 0 if all students have the part."""
        return math.log(len(self.students) / self.counts[part])

    @cached_property
    def _shared_weight(self) -> np.ndarray:
        """For each two answers, the weight of the parts that both have: students × students."""
        shared = [part for part, count in self.counts.items() if count > 1]
        total = np.zeros((len(self.students), len(self.students)))
        for start in range(0, len(shared), BLOCK):
            block = shared[start : start + BLOCK]
            has = np.array([[part in own for part in block] for own in self.parts.values()], float)
            total += has * [self._weight(part) for part in block] @ has.T
        return total

    @cached_property
    def overlap(self) -> np.ndarray:
        """The weighted Jaccard index of each two answers: students × students, from 0 to 1."""
        own = np.array([sum(map(self._weight, parts)) for parts in self.parts.values()])
        union = own[:, None] + own - self._shared_weight
        return np.divide(self._shared_weight, union, out=np.zeros_like(union), where=union > 0)

    @cached_property
    def p_values(self) -> np.ndarray:
        """The p-value of each two answers: students × students.

        The overlap is multiplied by the weight of what is shared. So neither long answers with a
        few rare parts in common nor answers with the same usual parts stand out.
        """
        return _p_values(self._shared_weight * self.overlap)

    @cached_property
    def usual(self) -> float:
        return float(np.median(self.overlap[np.triu_indices_from(self.overlap, 1)]))

    def alike(self, one: str, other: str) -> AlikeTask | None:
        """Return what is alike in two students' answers; None if they are not alike."""
        if one not in self.parts or other not in self.parts:
            return None
        place = self.students.index(one), self.students.index(other)
        if self.p_values[place] > MAX_P_VALUE:
            return None
        common = self.parts[one].keys() & self.parts[other]
        others = RARE * (len(self.students) - 2)
        rare = {part for part in common if self.counts[part] - 2 <= others}
        return AlikeTask(
            self.task,
            (self.sources[one], self.sources[other]),
            (
                frozenset(self.parts[one][part] for part in rare),
                frozenset(self.parts[other][part] for part in rare),
            ),
            float(self.overlap[place]),
            self.usual,
        )


def _p_values(likeness: np.ndarray) -> np.ndarray:
    """Return the share of pairs that are at least as alike as each pair: students × students.

    A pair is compared with itself and with the pairs of the other students. The other pairs of its
    two students don't count, because in a ring of three copies they are just as alike.
    """
    n = len(likeness)
    # Otherwise rounding errors would decide between equal pairs.
    rounded = likeness.round(9)
    pairs = np.sort(rounded[np.triu_indices(n, 1)])
    of_class = len(pairs) - np.searchsorted(pairs, rounded)
    np.fill_diagonal(rounded, -1)
    of_student = np.array([n - np.searchsorted(np.sort(row), row) for row in rounded])
    of_others = of_class - (of_student + of_student.T - 1)
    p_values = (1 + of_others) / len(pairs)
    np.fill_diagonal(p_values, 1)
    return p_values


def _expected(pairs: int, tasks: np.ndarray, surprise: np.ndarray) -> np.ndarray:
    """Return how many pairs are expected whose surprise is at least this large.

    Args:
        pairs: the number of pairs in the class.
        tasks: the number of tasks that both students answered, for each pair.
        surprise: minus the sum of the logarithms of the p-values of these tasks. If these p-values
            are independent and uniformly distributed, the surprise has a gamma distribution with
            the shape `tasks`.
    """
    terms = np.ones_like(surprise)
    for k in range(1, int(tasks.max(initial=0))):
        terms += np.where(k < tasks, surprise**k / math.factorial(k), 0)
    return pairs * np.exp(-surprise) * terms
