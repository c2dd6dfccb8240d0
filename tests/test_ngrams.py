"""Test ngrams: how texts become numbers, and what the classifier learns from them."""

import math

import numpy as np
import pytest

from course_utils import news, ngrams


def test_ngrams_are_pieces_of_words_with_their_borders():
    expected = {" ra", "rai", "ain", "in ", " rai", "rain", "ain ", " rain", "rain "}
    assert ngrams.ngrams("Rain") == dict.fromkeys(expected, 1)
    counts = ngrams.ngrams("a  ban\na BAN")
    assert counts["ban"] == counts[" a "] == 2
    assert "a b" not in counts


def test_vectors_have_length_one_and_larger_numbers_for_rare_and_frequent_ngrams():
    rarity = {"abc": 1.0, "bcd": 3.0, "xyz": 1.0}
    (row, empty) = ngrams.vectors([{"abc": 1, "bcd": 1, "xyz": 5, "new": 9}, {"new": 1}], rarity)
    numbers = np.array([1, 3, 1 + math.log(5)])
    assert row == pytest.approx(numbers / np.linalg.norm(numbers))
    assert not empty.any()


def test_classifier_learns_words_that_only_one_section_uses():
    words = {"weather": "thunder", "sport": "goalkeeper", "health": "vaccine"}
    train = [
        {"section": section, "story": f"The town of Halvik waits for the {word} on day {n}."}
        for section, word in words.items()
        for n in range(3)
    ]
    test = [{"story": f"Old Tarn has no {word}s."} for word in words.values()]
    assert ngrams.predict_sections(train, test) == list(words)


@pytest.mark.full
def test_classifier_is_far_better_than_guessing_on_the_news():
    data = news.load_news()
    found = ngrams.predict_sections(data["train"], data["validation"])
    right = [a == b for a, b in zip(found, data["validation"]["section"], strict=True)]
    assert 0.3 < np.mean(right) < 0.7
