"""Check, read and compare guesses: the part of `predict` that needs no widgets.

A `Question` is asked before a result is known. Its truth is one of its choices, or a number:

    choices                        truth           the right choice
    "all 15", "about 7"            "about 7"       the truth itself
    "a third" (33), "2%" (2)       1.6, a number   the choice with the nearest number
    none                           5.12, a number  the guess is a number, too

`Question` and `Reveal` are also what `predict` and `reveal` write into the metadata of their
outputs, from which the website and the slides are made.
"""

from __future__ import annotations

import contextlib
import html
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from course_utils.machine.units import counted

# A choice is named by a letter when a class votes.
LETTERS = "ABCDEFGHIJ"
# A guessed number is close if it differs from the truth by at most this share of the truth.
CLOSE = 0.1

NAME = re.compile(r"[\w-]{1,60}")
# The last character of a sentence, and not of an abbreviation.
SENTENCE_END = r"(?<!\bvs)(?<!\bFig)(?<!\be\.g)(?<!\bi\.e)[.!?](?=\s|$)"
# A separator of thousands, such as in 1,000 or 1_000 or 1 000.
SEPARATOR = re.compile(r"(?<=\d)[,_\s](?=\d{3}(?!\d))")


@dataclass(frozen=True)
class Question:
    """A question that students answer before they see the result.

    Attributes:
        question: The question as plain text, with `code` in backticks.
        choices: The choices, from which a student picks one; empty if the guess is a number.
        numbers: The number of each choice; empty if the truth is one of the choices or if there are
            no choices.
        unit: The unit of the numbers, such as "GB" or "%".
    """

    key: str
    question: str
    choices: tuple[str, ...] = ()
    numbers: tuple[float, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        check_name("the key of a prediction", self.key)
        where = f"the prediction {self.key!r}"
        for text in (self.question, *self.choices):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"the question and the choices of {where} must be texts, got {text!r:.60}"
                )
        if self.choices and not 2 <= len(self.choices) <= len(LETTERS):
            raise ValueError(
                f"{where} must have 2 to {len(LETTERS)} choices, or none if the guess is a number, "
                f"got {len(self.choices)}"
            )
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"the choices of {where} must differ, got {list(self.choices)}")
        if any(map(math.isnan, self.numbers)) or len(set(self.numbers)) < len(self.numbers):
            raise ValueError(
                f"the numbers of the choices of {where} must be finite and differ, "
                f"got {list(self.numbers)}"
            )
        if not isinstance(self.unit, str):
            raise ValueError(f"the unit of {where} must be a text, got {self.unit!r:.60}")

    @classmethod
    def of(
        cls, key: str, question: str, choices: Iterable[str] | Mapping[str, float] | None, unit: str
    ) -> Question:
        """Return the question with these choices: strings, or a mapping from strings to numbers."""
        if isinstance(choices, str) or not isinstance(choices, Iterable | None):
            raise ValueError(
                f"the choices of the prediction {key!r} must be a list, got {choices!r:.60}"
            )
        labels = None if choices is None else tuple(choices)
        if labels == ():
            raise ValueError(f"the prediction {key!r} has an empty list of choices: give 2 or more")
        numbers = tuple(map(as_float, choices.values())) if isinstance(choices, Mapping) else ()
        return cls(key, question, labels or (), numbers, unit)

    @classmethod
    def read(cls, form: Mapping[str, Any]) -> Question:
        """Return the question that `predict` has written into the metadata of an output."""
        return cls(**{**form, "choices": tuple(form["choices"]), "numbers": tuple(form["numbers"])})

    def checked_truth(self, value: Any) -> str | float:
        """Return the truth as one of the choices or as a float."""
        if self.choices and not self.numbers:
            if not isinstance(value, str) or value not in self.choices:
                raise ValueError(
                    f"the answer to the prediction {self.key!r} must be one of its choices "
                    f"{list(self.choices)}, got {value!r:.60}"
                )
            return value
        return checked_number(self.key, value)

    def right_choice(self, truth: str | float) -> str | None:
        """Return the choice that is right for a truth; None if there are no choices.

        The nearest number is right: in ratio if all numbers are positive, else in difference.
        """
        if isinstance(truth, str) or not self.choices:
            return truth if isinstance(truth, str) else None
        positive = min(*self.numbers, truth) > 0
        scale = math.log if positive else float
        distances = [abs(scale(number) - scale(truth)) for number in self.numbers]
        return self.choices[distances.index(min(distances))]

    def parsed(self, typed: str) -> float | None:
        """Return the number that a student typed, in the question's unit; None for an empty text.

        The number may have separators of thousands, an exponent and the unit: 1,000 or 1.6e9 or
        14.7 GB. If the question has no unit, 1.6% is 0.016. Another text raises a ValueError with a
        sentence for the student.
        """
        text = typed.strip().casefold().replace("−", "-")
        if not text:
            return None
        is_share = not self.unit and text.endswith("%")
        text = text.removesuffix("%" if is_share else self.unit.casefold())
        with contextlib.suppress(ValueError):
            number = float(SEPARATOR.sub("", text)) / (100 if is_share else 1)
            if math.isfinite(number):
                return number
        unit = f" in {self.unit}" if self.unit else ""
        raise ValueError(f"Please type one number{unit}, such as 14.7 or 1,000 or 1e9.")


@dataclass(frozen=True)
class Reveal:
    """The answer to a question, as `reveal` shows it to readers without a kernel.

    Attributes:
        answer: The answer as a sentence.
        truth: The right choice or the number.
        right: The right choice; None if there are no choices.
        why: What somebody who chose a wrong choice overlooked, by choice.
    """

    key: str
    answer: str
    truth: str | float
    right: str | None
    why: Mapping[str, str]

    @classmethod
    def of(cls, question: Question, truth: str | float, why: Mapping[str, str]) -> Reveal:
        """Return the answer to a question. A reason for the right choice is left out."""
        right = question.right_choice(truth)
        reasons = {choice: reason for choice, reason in why.items() if choice != right}
        return cls(question.key, the_answer(question, truth), truth, right, reasons)


def check_name(what: str, name: Any) -> None:
    """Raise ValueError if a name is not allowed as a key or as a part of a file name."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f'{what} must be a name of 1 to 60 letters, digits, "_" and "-", got {name!r:.60}'
        )


def checked_number(key: str, value: Any) -> float:
    """Return the answer to the prediction `key` as a float; ValueError if it is not allowed."""
    number = as_float(value)
    if math.isnan(number):
        raise ValueError(
            f"the answer to the prediction {key!r} must be a finite number, got {value!r:.60}"
        )
    return number


def as_float(value: Any) -> float:
    """Return a finite number of Python, NumPy or PyTorch as a float; nan for anything else."""
    try:
        number = math.nan if isinstance(value, bool | str | bytes) else float(value)
        return number if math.isfinite(number) else math.nan
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return math.nan


# --- sentences ------------------------------------------------------------------------------------


def with_unit(value: float, unit: str = "") -> str:
    """Write a number with at least three significant digits, and its unit.

    Example:
        >>> with_unit(14_683.4, "MB"), with_unit(1.6254, "%"), with_unit(7e9), with_unit(28)
        ('14,683 MB', '1.63%', '7e+09', '28')
    """
    if not 1e-4 <= abs(value) < 1e9 and value:
        number = f"{value:.3g}"
    elif value == round(value):
        number = f"{value:,.0f}"
    else:
        number = f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return f"{number}{unit}" if unit in ("", "%") else f"{number} {unit}"


def as_html(text: str) -> str:
    """Return plain text as HTML, with `code` in backticks."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def distance(guess: float, truth: float, unit: str = "") -> str:
    """Write how far a guess is from the truth, such as "2.7 times too high" or "3 GB too low".

    The distance is a factor or a percentage if both numbers are positive, else a difference.
    """
    if guess == truth:
        return "exactly right"
    side = "too high" if guess > truth else "too low"
    if min(guess, truth) <= 0:
        return f"{with_unit(abs(guess - truth), unit)} {side}"
    times = max(guess, truth) / min(guess, truth)
    if abs(guess - truth) <= CLOSE * truth:
        percent = 100 * abs(guess / truth - 1)
        return f"{percent:.2g}% {side}" if percent >= 0.1 else f"less than 0.1% {side}"
    if times > 1e6:
        return f"more than a million times {side}"
    return f"{times:.1f} times {side}" if times < 9.95 else f"{times:,.0f} times {side}"


def the_answer(question: Question, truth: str | float) -> str:
    """Write the answer as a sentence: the right choice, the number, or both."""
    right = question.right_choice(truth)
    if right is None or isinstance(truth, str):
        return f"The answer is {written(truth, question.unit)}."
    return f"The answer is {with_unit(truth, question.unit)}, so {written(right)} is right."


def written(value: str | float, unit: str = "") -> str:
    """Write a guess or an answer: a choice in quotes, or a number with its unit."""
    return f"'{value}'" if isinstance(value, str) else with_unit(value, unit)


def comparison(
    question: Question, guess: str | float | None, truth: str | float, why: Mapping[str, str]
) -> tuple[str, str]:
    """Return what a student reads when the answer is shown: the first words and the rest."""
    answer = the_answer(question, truth)
    if guess is None:
        return answer, "You didn't enter a guess. You can still enter one above."
    if isinstance(guess, str):
        if guess == question.right_choice(truth):
            return "Right:", f"{answer[0].lower()}{answer[1:]}"
        return f"You chose {written(guess)}.", f"{answer} {why.get(guess, '')}".strip()
    off = distance(guess, as_float(truth), question.unit)
    return (
        f"You guessed {with_unit(guess, question.unit)}.",
        f"{answer[:-1]}: your guess was {off}.",
    )


@dataclass(frozen=True)
class Guess:
    """What one student guessed, beside the answer; None if one of them is not known.

    `late` says whether the student entered the guess after the answer was shown.
    """

    question: Question
    guess: str | float | None = None
    truth: str | float | None = None
    late: bool = False

    @property
    def is_right(self) -> bool | None:
        """Whether the right choice was chosen; None without choices, guess or answer."""
        if self.guess is None or self.truth is None or not self.question.choices:
            return None
        return self.guess == self.question.right_choice(self.truth)

    def judged(self) -> str:
        """Return how good the guess was: "✓ right", "✗ wrong", or how far off a number was."""
        if self.question.choices:
            words = "✓ right" if self.is_right else "✗ wrong"
        else:
            words = distance(as_float(self.guess), as_float(self.truth), self.question.unit)
        return f"{words}, entered too late" if self.late else words


def summary(guesses: Iterable[Guess]) -> str:
    """Write in sentences how many questions have a guess, and how many choices were right."""
    guesses = list(guesses)
    entered = [guess for guess in guesses if guess.guess is not None]
    made = [guess for guess in entered if not guess.late]
    sentences = [f"You predicted {len(made)} of {counted(len(guesses), 'result')}."]
    if late := len(entered) - len(made):
        which = counted(late, "guess does", "guesses do")
        sentences.append(f"{which} not count, because the answer was already shown.")
    if choices := [guess.is_right for guess in made if guess.is_right is not None]:
        if len(choices) == 1:
            sentences.append(f"Your choice was {'right' if choices[0] else 'wrong'}.")
        else:
            verb = "was" if sum(choices) == 1 else "were"
            sentences.append(f"{sum(choices)} of your {len(choices)} choices {verb} right.")
    return " ".join(sentences)
