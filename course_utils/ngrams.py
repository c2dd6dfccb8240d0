"""Sort stories into sections without a language model: a linear classifier on character n-grams.

    "The ferry …" -> {" th": 1, "the": 1, …} -> one weight per n-gram and section -> "weather"

This classical method is a baseline for lecture 07. A fine-tuned model should name the right section
more often than a method that only counts pieces of words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

# The numbers of characters of the n-grams, and the strength of the penalty on large weights.
SIZES = (3, 4, 5)
RIDGE = 1.0


def predict_sections(
    train: Iterable[Mapping[str, str]], test: Iterable[Mapping[str, str]]
) -> list[str]:
    """Learn the sections from training stories, and return a section for each test story.

    A story becomes a vector with one number for each n-gram, which is large if the n-gram is
    frequent in the story and rare in other stories (tf-idf). Ridge regression finds weights such
    that the weighted sum is close to 1 for the section of a training story and to -1 for the
    others.

    Sources: Spärck Jones (1972), Journal of Documentation 28, for the weights of rare terms; Hoerl
    and Kennard (1970), Technometrics 12, for ridge regression.
    """
    train = list(train)
    if not train:
        raise ValueError("the classifier needs at least one training story")
    counts = [ngrams(example["story"]) for example in train]
    stories_with = Counter(ngram for story in counts for ngram in story)
    # An n-gram that occurs in a single story can't help with another story.
    repeated = [ngram for ngram, stories in stories_with.items() if stories > 1]
    rarity = {ngram: 1 + math.log(len(train) / stories_with[ngram]) for ngram in repeated}
    known = vectors(counts, rarity)  # (train, n-grams)
    new = vectors([ngrams(example["story"]) for example in test], rarity)  # (test, n-grams)

    sections = sorted({example["section"] for example in train})
    targets = [[1.0 if s == e["section"] else -1.0 for s in sections] for e in train]
    # Ridge regression in its dual form, which solves one equation per story, not one per n-gram.
    penalty = RIDGE * torch.eye(len(train), dtype=known.dtype)
    dual = torch.linalg.solve(known @ known.T + penalty, torch.tensor(targets, dtype=known.dtype))
    return [sections[best] for best in (new @ (known.T @ dual)).argmax(dim=1)]


def ngrams(text: str) -> Counter[str]:
    """Count the n-grams of a text: pieces of 3 to 5 characters of its words, in lower case.

    A space marks the start and the end of a word. For example, "Rain" contains " ra", "rai", "ain",
    "in ", " rai", "rain", "ain ", " rain" and "rain ".
    """
    words = (f" {word} " for word in text.lower().split())
    return Counter(
        word[i : i + size] for word in words for size in SIZES for i in range(len(word) - size + 1)
    )


def vectors(counts: Sequence[Mapping[str, int]], rarity: Mapping[str, float]) -> Tensor:
    """Return a unit vector for each text, as a float64 tensor of shape (texts, n-grams).

    A number is (1 + log of the n-gram's count) times its rarity, or 0 if the text does not contain
    the n-gram. N-grams without a rarity are left out.
    """
    column = {ngram: i for i, ngram in enumerate(rarity)}
    table = torch.zeros(len(counts), len(rarity), dtype=torch.float64)
    for row, story in zip(table, counts, strict=True):
        known = sorted(story.keys() & column.keys(), key=column.__getitem__)
        values = [(1 + math.log(story[ngram])) * rarity[ngram] for ngram in known]
        row[[column[ngram] for ngram in known]] = torch.tensor(values, dtype=torch.float64)
    return torch.nn.functional.normalize(table)
