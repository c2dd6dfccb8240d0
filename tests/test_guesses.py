"""Test guesses: which questions are allowed, how numbers are read, and how they are compared."""

import doctest
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from course_utils.notebook import guesses
from course_utils.notebook.guesses import Guess, Question, distance, summary, with_unit

SIZE = Question.of("size", "How large?", None, "GB")
LEVELS = Question.of("levels", "How many?", ["all 15", "about 7", "3 or fewer"], "")
SHARE = Question.of("share", "Which share?", {"a third": 33, "2%": 2, "none": 0}, "%")


# --- questions ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "What?", None, ""), r'the key of a prediction must be a name of .* digits, "_" and'),
        (("a/b", "What?", None, ""), r"digits, \"_\" and \"-\", got 'a/b'"),
        (("a", " ", None, ""), "the question and the choices of .* must be texts, got ' '"),
        (("a", "What?", ["x", 2], ""), "the choices of the prediction 'a' must be texts, got 2"),
        (("a", "What?", ["x"], ""), "must have 2 to 10 choices, or none .* got 1"),
        (("a", "What?", list("abcdefghijk"), ""), "must have 2 to 10 choices, .* got 11"),
        (("a", "What?", [], ""), "has an empty list of choices: give 2 or more"),
        (("a", "What?", "yes", ""), "must be a list, got 'yes'"),
        (("a", "What?", ["x", "x"], ""), r"the choices .* must differ, got \['x', 'x'\]"),
        (("a", "What?", {"x": 1, "y": math.inf}, ""), r"must be finite and differ, got \[1.0, nan"),
        (("a", "What?", {"x": 1, "y": 1}, ""), r"must be finite and differ, got \[1.0, 1.0\]"),
        (("a", "What?", None, None), "the unit of the prediction 'a' must be a text, got None"),
    ],
)
def test_a_mistake_of_the_author_says_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        Question.of(*arguments)


def test_the_answer_must_fit_the_question():
    with pytest.raises(ValueError, match=r"'levels' must be one of its choices \['all 15'.* got 3"):
        LEVELS.checked_truth(3)
    for value in ("5.12", math.nan, math.inf, None, True, 10**400):
        with pytest.raises(ValueError, match=r"must be a finite number"):
            SIZE.checked_truth(value)


@pytest.mark.parametrize("question", [SIZE, LEVELS, SHARE], ids=lambda question: question.key)
def test_a_question_is_read_from_the_metadata_of_an_output(question):
    assert Question.read(json.loads(json.dumps(asdict(question)))) == question


@pytest.mark.parametrize("number", [7, 7.0, np.float32(7), np.int64(7), torch.tensor(7)])
def test_an_answer_may_be_a_number_of_python_numpy_or_torch(number):
    assert SIZE.checked_truth(number) == 7.0
    assert type(SIZE.checked_truth(number)) is float


@pytest.mark.parametrize(
    ("numbers", "truth", "right"),
    [
        # In ratio, 9 is nearer to 30 than to 2, although the difference to 2 is smaller.
        ({"2": 2, "30": 30}, 9, "30"),
        ({"2": 2, "30": 30}, 7, "2"),
        ({"1": 1, "100": 100}, 0, "1"),
    ],
)
def test_the_choice_with_the_nearest_number_is_right(numbers, truth, right):
    assert Question.of("a", "What?", numbers, "").right_choice(truth) == right


# --- numbers that people type ---


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        ("14", 14),
        ("14gb", 14),
        ("1,000", 1000),
        ("1,234,567.5", 1_234_567.5),
        ("14 700 GB", 14_700),
        ("1e9", 1e9),
        (".5", 0.5),
        ("-3", -3),
        ("−3", -3),
        ("", None),
    ],
)
def test_numbers_are_read_as_people_type_them(typed, number):
    assert SIZE.parsed(typed) == number


def test_percentages():
    assert SHARE.parsed("1.6 %") == SHARE.parsed("1.6") == 1.6
    assert Question.of("a", "Which share?", None, "").parsed("1.6 %") == pytest.approx(0.016)


@pytest.mark.parametrize(
    "typed",
    [
        *("many", "nan", "inf", "-inf", "1e999", "14 MB", "1.6 %"),
        *("14,7", "1,00", "1,0000", "1.000.000", "1 2", "--1", ".", "e5", "1e", "0x10", "<b>1</b>"),
        *("14 GB 15 GB", "1/2", "½"),
    ],
)
def test_other_texts_get_one_sentence_that_says_what_is_allowed(typed):
    with pytest.raises(ValueError) as error:
        SIZE.parsed(typed)
    assert str(error.value) == "Please type one number in GB, such as 14.7 or 1,000 or 1e9."


# --- sentences ---


def test_numbers_are_written_with_three_significant_digits():
    assert doctest.testmod(guesses).failed == 0
    assert [with_unit(x, "GB") for x in (5.1234, 0.015_63, 1e-9)] == [
        *("5.12 GB", "0.0156 GB", "1e-09 GB"),
    ]


@pytest.mark.parametrize(
    ("guess", "truth", "text"),
    [
        (14, 5.12, "2.7 times too high"),
        (50_000, 5, "10,000 times too high"),
        (1e20, 1, "more than a million times too high"),
        (5.2, 5, "4% too high"),
        (4.5, 5, "10% too low"),
        (5.0001, 5, "less than 0.1% too high"),
        (5, 5, "exactly right"),
        (3, 0, "3 GB too high"),
        (-1, 2, "3 GB too low"),
    ],
)
def test_the_distance_is_a_factor_or_a_difference(guess, truth, text):
    assert distance(guess, truth, "GB") == text


def test_the_summary_counts_guesses_and_right_choices_and_states_late_guesses():
    made = [Guess(LEVELS, "about 7", "about 7"), Guess(LEVELS, "all 15", "about 7")]
    assert summary([*made, Guess(SIZE, 10.0, 5.0), Guess(SHARE)]) == (
        "You predicted 3 of 4 results. 1 of your 2 choices was right."
    )
    assert summary([Guess(SIZE, 5.0, 5.0)]) == "You predicted 1 of 1 result."
    late = [Guess(LEVELS, "about 7", "about 7", late=True), Guess(SIZE, 5.0, 5.0, late=True)]
    assert summary([*late, made[1]]) == (
        "You predicted 1 of 3 results. 2 guesses do not count, because the answer was already "
        "shown. Your choice was wrong."
    )
