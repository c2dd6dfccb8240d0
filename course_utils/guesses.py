"""Check, read and compare guesses: the part of `predict` that needs no widgets.

A `Question` is asked before a result is known. Its truth is one of its choices, or a number:

    choices                        truth           the right choice
    "all 15", "about 7"            "about 7"       the truth itself
    "a third" (33), "2%" (2)       1.6, a number   the choice with the nearest number
    none                           5.12, a number  the guess is a number, too

A `Guess` is a question with what one student guessed. `to_json` and `from_json` write and read the
file in which a student keeps the guesses of a lecture. `from_json` reads files of strangers, so it
checks everything that a file contains.
"""

from __future__ import annotations

import contextlib
import html
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from course_utils import __version__

# The maximum number of characters of a question, of a choice or unit, and of a typed number.
MAX_QUESTION, MAX_CHOICE, MAX_TYPED = 500, 200, 40
# A choice is named by a letter when a class votes.
LETTERS = "ABCDEFGHIJ"
# The smallest and the largest absolute value of a number other than 0.
SMALLEST, LARGEST = 1e-30, 1e30
ALLOWED = f"a number: 0, or from {SMALLEST:g} to {LARGEST:g} in size"
# The maximum number of guesses in a file.
MAX_GUESSES = 100
# A guessed number is close if it differs from the truth by at most this share of the truth.
CLOSE = 0.1

NAME = re.compile(r"[\w-]{1,60}")
# The last character of a sentence, and not of an abbreviation.
SENTENCE_END = r"(?<!\bvs)(?<!\bFig)(?<!\be\.g)(?<!\bi\.e)[.!?](?=\s|$)"
# Digits with or without a separator after each three of them, such as 1,000 or 1_000 or 1 000.
DIGITS = r"(?:\d{1,3}(?:[,_ \u00a0\u202f]\d{3})+|\d*)"
NUMBER = re.compile(rf"([+-]?{DIGITS}(?:\.\d*)?(?:[eE][+-]?\d{{1,3}})?)\s*(.*)")


@dataclass(frozen=True)
class Question:
    """A question that students answer before they see the result.

    Attributes:
        key: the name of the question in its lecture: letters, digits, "_" and "-".
        text: the question.
        choices: the choices, from which a student picks one; empty if the guess is a number.
        numbers: the number of each choice; empty if the truth is one of the choices or if there are
            no choices.
        unit: the unit of the numbers, such as "GB" or "%".

    Raises:
        ValueError: an attribute is not allowed; the message says what is.
    """

    key: str
    text: str
    choices: tuple[str, ...] = ()
    numbers: tuple[float, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        check_name("the key of a prediction", self.key)
        where = f"the prediction {self.key!r}"
        _check_text(f"the question of {where}", self.text, MAX_QUESTION)
        for choice in self.choices:
            _check_text(f"a choice of {where}", choice, MAX_CHOICE)
        if self.choices and not 2 <= len(self.choices) <= len(LETTERS):
            raise ValueError(
                f"{where} must have 2 to {len(LETTERS)} choices, or none if the guess is a number, "
                f"got {len(self.choices)}"
            )
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"the choices of {where} must differ, got {short(self.choices)}")
        if self.numbers and len(self.numbers) != len(self.choices):
            raise ValueError(f"{where} must have one number for each choice")
        finite = all(isinstance(n, float) and math.isfinite(n) for n in self.numbers)
        if not finite or len(set(self.numbers)) < len(self.numbers):
            raise ValueError(
                f"the numbers of the choices of {where} must differ, and each must be {ALLOWED}, "
                f"got {short(self.numbers)}"
            )
        if self.unit != "":
            _check_text(f"the unit of {where}", self.unit, MAX_CHOICE)

    @classmethod
    def of(
        cls, key: str, text: str, choices: Iterable[str] | Mapping[str, float] | None, unit: str
    ) -> Question:
        """Return the question with these choices: strings, or a mapping from strings to numbers.

        Raises:
            ValueError: an argument is not allowed; the message says what is.
        """
        if isinstance(choices, str) or not isinstance(choices, Iterable | None):
            raise ValueError(
                f"the choices of the prediction {key!r} must be a list, got {choices!r:.60}"
            )
        labels = None if choices is None else tuple(choices)
        if labels == ():
            raise ValueError(f"the prediction {key!r} has an empty list of choices: give 2 or more")
        numbers = tuple(map(as_float, choices.values())) if isinstance(choices, Mapping) else ()
        return cls(key, text, labels or (), numbers, unit)

    @property
    def has_labels_only(self) -> bool:
        """Whether the truth is one of the choices instead of a number."""
        return bool(self.choices) and not self.numbers

    def checked_truth(self, value: Any) -> str | float:
        """Return the truth as one of the choices or as a float.

        Raises:
            ValueError: the truth of this question can't have this value.
        """
        if self.has_labels_only:
            if not isinstance(value, str) or value not in self.choices:
                raise ValueError(
                    f"the answer to the prediction {self.key!r} must be one of its choices "
                    f"{short(self.choices)}, got {value!r:.60}"
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
        14.7 GB. If the question has no unit, 1.6% is 0.016.

        Raises:
            ValueError: the text is no such number; the message is a sentence for the student.
        """
        text = typed.strip() if len(typed) <= MAX_TYPED else "too long"
        if not text:
            return None
        match = NUMBER.fullmatch(text.replace("−", "-"))
        factors = {"": 1.0, self.unit.casefold(): 1.0} | ({} if self.unit else {"%": 0.01})
        if match and (factor := factors.get(match[2].casefold())):
            with contextlib.suppress(ValueError):
                number = as_float(float(re.sub(r"[,_\s]", "", match[1])) * factor)
                if math.isfinite(number):
                    return number
        unit = f" in {self.unit}" if self.unit else ""
        raise ValueError(f"Please type one number{unit}, such as 14.7 or 1,000 or 1e9.")


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
            f"the answer to the prediction {key!r} must be {ALLOWED}, got {value!r:.60}"
        )
    return number


def _check_text(what: str, text: Any, longest: int) -> None:
    if not isinstance(text, str) or not text.strip() or len(text) > longest:
        raise ValueError(f"{what} must be a text of 1 to {longest} characters, got {text!r:.60}")


def short(values: Iterable[Any]) -> str:
    """Return the beginning of a list for an error message; the list may be a stranger's."""
    return f"{list(values)!r:.100}"


def as_float(value: Any) -> float:
    """Return a number of Python, NumPy or PyTorch as a float; nan for anything else.

    A number that is too small or too large to be drawn is nan, too.
    """
    try:
        number = math.nan if isinstance(value, bool | str | bytes) else float(value)
        return number if number == 0 or SMALLEST <= abs(number) <= LARGEST else math.nan
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
    if is_close(guess, truth):
        percent = 100 * abs(guess / truth - 1)
        return f"{percent:.2g}% {side}" if percent >= 0.1 else f"less than 0.1% {side}"
    if times > 1e6:
        return f"more than a million times {side}"
    return f"{times:.1f} times {side}" if times < 9.95 else f"{times:,.0f} times {side}"


def is_close(guess: float, truth: float) -> bool:
    """Return whether a guess differs from the truth by at most a tenth of the truth."""
    return abs(guess - truth) <= CLOSE * abs(truth)


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
    """Return what a student reads when the answer is shown: the first words and the rest.

    Args:
        question: the question.
        guess: the student's guess; None if there is none.
        truth: the answer, as `Question.checked_truth` returns it.
        why: what somebody who chose a wrong choice overlooked, by choice.
    """
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
    """What one student guessed, beside the answer.

    Attributes:
        question: the question.
        guess: the choice or the number; None if the student entered no guess.
        truth: the answer: the right choice or a number; None if it is not known yet.
        late: whether the student entered the guess after the answer was shown.

    Raises:
        ValueError: the guess or the truth doesn't fit the question.
    """

    question: Question
    guess: str | float | None = None
    truth: str | float | None = None
    late: bool = False

    def __post_init__(self) -> None:
        if self.truth is not None:
            self.question.checked_truth(self.truth)
        if self.question.choices and self.guess not in (None, *self.question.choices):
            raise ValueError(f"a guess must be one of the choices, got {self.guess!r:.60}")
        if not self.question.choices and self.guess is not None:
            self.question.checked_truth(self.guess)

    @property
    def is_right(self) -> bool | None:
        """Whether the right choice was chosen; None without choices, guess or answer."""
        if self.guess is None or self.truth is None or not self.question.choices:
            return None
        return self.guess == self.question.right_choice(self.truth)

    @property
    def numbers(self) -> tuple[float, float] | None:
        """The guess and the answer, if both are numbers."""
        if isinstance(self.guess, float) and isinstance(self.truth, float):
            return self.guess, self.truth
        return None

    @property
    def ratio(self) -> float | None:
        """The guessed number divided by the answer; None unless both are positive numbers."""
        pair = self.numbers
        return pair[0] / pair[1] if pair and min(pair) > 0 else None


def summary(guesses: Iterable[Guess]) -> str:
    """Write in sentences how many questions have a guess, and how good the guesses were."""
    guesses = list(guesses)
    entered = [guess for guess in guesses if guess.guess is not None]
    made = [guess for guess in entered if not guess.late]
    sentences = [f"You predicted {len(made)} of {counted(len(guesses), 'result', 'results')}."]
    if late := len(entered) - len(made):
        which = counted(late, "guess does", "guesses do")
        sentences.append(f"{which} not count, because the answer was already shown.")
    if choices := [guess.is_right for guess in made if guess.is_right is not None]:
        if len(choices) == 1:
            sentences.append(f"Your choice was {'right' if choices[0] else 'wrong'}.")
        else:
            verb = "was" if sum(choices) == 1 else "were"
            sentences.append(f"{sum(choices)} of your {len(choices)} choices {verb} right.")
    if ratios := [guess.ratio for guess in made if guess.ratio]:
        factor = median(max(ratio, 1 / ratio) for ratio in ratios)
        times = f"{factor:.2g}" if factor < 100 else f"{factor:,.0f}"
        if ratios[1:]:
            off = f"a factor of {times}" if times != "1" else "less than 5%"
            sentences.append(f"The median error of your {len(ratios)} numbers was {off}.")
        else:
            off = f"off by a factor of {times}" if times != "1" else "within 5% of the answer"
            sentences.append(f"Your number was {off}.")
    return " ".join(sentences)


def counted(number: int, one: str, several: str) -> str:
    """Write a number with its noun in the singular or the plural."""
    return f"{number} {one if number == 1 else several}"


# --- files ----------------------------------------------------------------------------------------


def to_json(lecture: str, guesses: Iterable[Guess]) -> str:
    """Return the content of a file with the guesses of a lecture.

    It has the questions, the guesses, the answers and the version of the course, and nothing about
    the person or the machine.
    """
    content = {"course": __version__, "lecture": lecture, "guesses": [asdict(g) for g in guesses]}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def from_json(data: bytes) -> tuple[str, list[Guess]]:
    """Return the lecture and the guesses in a file that `to_json` or a stranger wrote.

    Raises:
        ValueError: the file has another content; the message says where.
    """
    try:
        content = json.loads(data, parse_constant=_refuse)
        lecture, guesses = content["lecture"], content["guesses"]
        check_name("the lecture", lecture)
        if not isinstance(guesses, list) or len(guesses) > MAX_GUESSES:
            raise ValueError(f"it must have a list of at most {MAX_GUESSES} guesses")
        return lecture, [_guess(entry) for entry in guesses]
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not a file of guesses ({error!r:.80})") from None


def _refuse(constant: str) -> float:
    raise ValueError(f"it contains {constant}, which is not a number")


def _guess(entry: Any) -> Guess:
    question = entry["question"]
    choices, numbers = question["choices"], question["numbers"]
    if not isinstance(choices, list) or not isinstance(numbers, list):
        raise TypeError("choices and numbers must be lists")
    return Guess(
        Question(
            question["key"],
            question["text"],
            tuple(choices),
            tuple(map(_plain_number, numbers)),
            question["unit"],
        ),
        _plain_value(entry["guess"]),
        _plain_value(entry["truth"]),
        entry["late"] is True,
    )


def _plain_number(value: Any) -> float:
    """Return a JSON number as a float; anything else, such as a string of digits, is refused."""
    if not isinstance(value, int | float) or not math.isfinite(as_float(value)):
        raise ValueError(f"it contains {value!r:.40} where a finite number must be")
    return as_float(value)


def _plain_value(value: Any) -> str | float | None:
    return value if value is None or isinstance(value, str) else _plain_number(value)
