"""Test generation in batches, the scores of answers, intervals, comparisons and tables."""

from __future__ import annotations

import random
import warnings
from contextlib import contextmanager
from functools import wraps

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from course_utils import decoding, evaluation, news, significance
from course_utils.training import Recipe, attach_adapters, set_checkpointing
from tests.conftest import make_model, randomize_adapters

pytestmark = pytest.mark.usefixtures("frozen_imports")


@pytest.fixture(params=["by hand", "transformers"])
def path(request, monkeypatch):
    """Run a test twice: with `course_utils.decoding`, and with transformers' `generate`."""
    if request.param == "transformers":
        monkeypatch.setattr(evaluation, "supports", lambda _: False)
    return request.param


@pytest.fixture
def model():
    # The weights are large, so that different prompts get different answers.
    return make_model(initializer_range=0.4)


@pytest.fixture(scope="module")
def conversations():
    texts = ["a", "a story", "a much longer story about rain", "bb", "x" * 60, "zebra?", "12, 13"]
    return [[{"role": "user", "content": text}] for text in texts]


def one_by_one(model, tokenizer, conversations, tokens, ends=()):
    """Decode greedily, one prompt after the other, without padding and without a cache."""
    ends = {tokenizer.eos_token_id, *ends}
    answers = []
    for messages in conversations:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        new = []
        while len(new) < tokens:
            with torch.no_grad():
                best = model(torch.tensor([ids + new])).logits[0, -1].argmax().item()
            if best in ends:
                break
            new.append(best)
        answers.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    return answers


# -- generation


@pytest.mark.parametrize("shared", ["", "x", "Story and headline, please. " * 5])
def test_the_common_prefix_is_processed_once_and_does_not_change_the_answers(
    model, tokenizer, conversations, shared, path, monkeypatch
):
    prompts = [[{"role": "system", "content": shared}, *each] for each in conversations]
    sizes = []

    by_hand = path == "by hand"
    owner, name = (decoding.Decoder, "_forward") if by_hand else (type(model), "forward")
    forward = getattr(owner, name)

    # transformers inspects the parameters of this method.
    @wraps(forward)
    def record_size(self, input_ids=None, *rest, **options):
        sizes.append(input_ids.numel())
        return forward(self, input_ids, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, record_size)
        answers = evaluation.generate(model, tokenizer, prompts, max_new_tokens=4, batch_size=3)
    start = f"<|im_start|>system\n{shared}<|im_end|>\n<|im_start|>user\n"
    prefix = len(tokenizer(start)["input_ids"])
    # Each of the 3 batches then needs only the rest of its prompts.
    assert sizes[0] == prefix and sum(n > prefix for n in sizes) <= 3
    assert answers == one_by_one(model, tokenizer, prompts, 4)
    # If all answers were equal, this test would not notice a wrong order.
    assert len(set(answers)) > 3


def test_an_answer_ends_at_any_end_token_of_the_model_or_the_tokenizer(
    model, tokenizer, conversations, path
):
    with torch.no_grad():
        ids = tokenizer.apply_chat_template(conversations[1], add_generation_prompt=True)
        out = model.eval().generate(torch.tensor([ids["input_ids"]]), max_new_tokens=6)
    third = out[0, -4].item()
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, third]
    expected = one_by_one(model, tokenizer, conversations, 12, ends=[third])
    longer = one_by_one(model, tokenizer, conversations, 12)
    answers = evaluation.generate(
        model, tokenizer, conversations, max_new_tokens=12, progress=False
    )
    assert answers == expected != longer


@contextmanager
def assert_silent(capfd):
    """Assert that the code in the with block causes no output, warnings or log messages."""
    # transformers logs some warnings only once, so make it forget earlier warnings.
    transformers.utils.logging.warning_once.cache_clear()
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert capfd.readouterr() == ("", "")


def test_generate_ignores_and_restores_the_state_of_a_model_in_training(
    model, tokenizer, conversations, capfd, path
):
    """The model has dropout, gradient checkpointing and use_cache=False, as during training."""
    tuned = randomize_adapters(attach_adapters(model, Recipe(rank=4, dropout=0.5)), 0.5)
    expected = one_by_one(tuned.eval(), tokenizer, conversations, 12)
    tuned.config.use_cache = False
    base = tuned.get_base_model()
    set_checkpointing(tuned, True)
    base.enable_input_require_grads()
    tuned.train()
    base.model.layers[1].eval()
    before = {name: module.training for name, module in tuned.named_modules()}
    with assert_silent(capfd):
        answers = evaluation.generate(
            tuned, tokenizer, conversations, max_new_tokens=12, progress=False
        )
    assert answers == expected
    assert {name: module.training for name, module in tuned.named_modules()} == before
    assert base.model.layers[0].gradient_checkpointing and tuned.config.use_cache is False


def test_an_error_in_generate_restores_the_modes_of_the_model(
    model, tokenizer, conversations, path, monkeypatch
):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "generate", fail)
    monkeypatch.setattr(decoding.Decoder, "_step", fail)
    model.train()
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluation.generate(model, tokenizer, conversations, progress=False)
    assert model.training and model.model.layers[0].training


def test_generate_is_greedy_although_the_models_config_asks_for_sampling(
    model, tokenizer, conversations, capfd, path
):
    expected = evaluation.generate(model, tokenizer, conversations, progress=False)
    model.generation_config.update(do_sample=True, temperature=0.2, top_p=0.9, max_length=20)
    with assert_silent(capfd):
        assert evaluation.generate(model, tokenizer, conversations, progress=False) == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "at least 1"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"conversations": [{"role": "user", "content": "x"}]}, "each conversation a list of"),
        ({"conversations": [[]]}, "at least one message"),
        (
            {"conversations": [[{"role": "assistant", "content": "x"}]]},
            "because the model generates it",
        ),
    ],
)
def test_generate_rejects_wrong_sizes_and_conversations(model, tokenizer, wrong, message):
    options = {"conversations": [[{"role": "user", "content": "x"}]], "progress": False} | wrong
    with pytest.raises(ValueError, match=message):
        evaluation.generate(model, tokenizer, **options)


# -- reading answers

GOOD = '{"section": "sport", "headline": "Owls win in Halvik"}'


@pytest.mark.parametrize(
    ("answer", "strict", "lenient"),
    [
        (GOOD, True, True),
        (f"\n {GOOD}  \n", True, True),
        ('{"headline": "Owls win", "section": "sport"}', True, True),
        (f"Here you are: {GOOD}", False, True),
        (f"```json\n{GOOD}\n```", False, True),
        (f"{GOOD} {GOOD}", False, True),
        ("{sic} " + GOOD, False, True),
        ('{"section": "sport", "headline": "Owls win", "source": "wire"}', False, True),
        ('{"section": "sport", "section": "sport", "headline": "Owls win"}', False, True),
        ('{"section": "sport", "headline": 3}', False, False),
        ('{"section": "sport", "headline": {"text": "Owls win"}}', False, False),
        ('{"section": "sport"}', False, False),
        ('{"section": "sport", "headline": "Owls wi', False, False),
        ('[["section", "sport"], ["headline", "Owls win"]]', False, False),
        (f"[{GOOD}]", False, True),
        ("17", False, False),
        ("sport: Owls win", False, False),
        ("", False, False),
        ("{" * 10_000, False, False),
        ("[" * 100_000, False, False),
        # Python does not convert numbers with more than 4,300 digits.
        ('{"section": ' + "1" * 5000 + "}", False, False),
        ('{"a": ' + "1" * 5000 + "} " + GOOD, False, True),
    ],
)
def test_parse_answer_reads_strictly_or_leniently(answer, strict, lenient):
    assert (evaluation.parse_answer(answer) is not None) == strict
    assert (evaluation.parse_answer(answer, lenient=True) is not None) == lenient


# -- scores

EXAMPLE = {
    "section": "sport",
    "story": "The Owls beat Tarn in Halvik on Friday.",
    "headline": "Owls beat Tarn in Halvik",
}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (news.answer(EXAMPLE), [1, 1, 1, 1]),
        (news.answer(EXAMPLE | {"section": "health"}), [1, 0, 1, 1]),
        (news.answer(EXAMPLE | {"headline": "Owls beat Tarn in Halvik."}), [1, 1, 0, 1]),
        (news.answer(EXAMPLE | {"headline": "Tarn loses to Owls in Halvik"}), [1, 1, 1, 6 / 11]),
        ("Answer: " + news.answer(EXAMPLE), [0, 0, 0, 0]),
    ],
)
def test_each_metric_scores_only_its_own_part_of_the_answer(answer, expected):
    scores = evaluation.score([answer], [EXAMPLE])
    assert list(scores.columns) == ["valid_json", "section_right", "house_style", "rouge_l"]
    assert scores.iloc[0].tolist() == pytest.approx(expected)


def test_the_reference_answers_of_the_test_split_have_the_best_scores():
    test = news.load_news()["test"]
    scores = evaluation.score([news.answer(row) for row in test], test)
    assert scores.shape == (96, 4) and (scores == 1).all(axis=None)


def test_score_rejects_another_number_of_answers_than_examples():
    for count, message in ((1, "1 answers for 2 examples"), (0, "0 answers")):
        with pytest.raises(ValueError, match=message):
            evaluation.score(["x"] * count, [EXAMPLE] * 2 * count)


def test_bare_sections_must_be_equal_to_the_section():
    answers = ["sport", "Sport", "sport.", "health", news.answer(EXAMPLE)]
    scores = evaluation.score_sections(answers, [EXAMPLE] * 5)
    assert scores.to_dict("list") == {"section_right": [1, 0, 0, 0, 0]}
    compared = evaluation.compare(scores, evaluation.score(answers, [EXAMPLE] * 5))
    assert list(compared) == ["section_right"], "only one metric is in both tables"
    assert (compared["section_right"].gained, compared["section_right"].lost) == (1, 1)


@pytest.mark.parametrize(
    ("candidate", "reference", "f1"),
    [
        # Precision is 1 and recall is 1/2.
        ("the cat", "the cat sat down", 2 / 3),
        ("...", "...", 0),
        ("Москва растёт", "москва, растёт", 1),
    ],
)
def test_rouge_l_of_short_texts(candidate, reference, f1):
    assert evaluation.rouge_l(candidate, reference) == pytest.approx(f1)


def test_rouge_l_equals_that_of_the_package_rouge_score():
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score not installed")
    rouge = scorer.RougeScorer(["rougeL"], use_stemmer=False)
    rng = random.Random(0)
    words = ["Owls", "beat", "Tarn's", "in", "Halvik,", "5-2", "o'clock", "café", "a"]
    for _ in range(300):
        a, b = (" ".join(rng.choices(words, k=rng.randint(0, 9))) for _ in range(2))
        assert evaluation.rouge_l(a, b) == pytest.approx(rouge.score(b, a)["rougeL"].fmeasure)


# -- comparisons


def table(section, style, rouge=None):
    """Return scores of which the first `section` and `style` stories are right."""
    n = 40
    right = {"section_right": section, "house_style": style}
    scores = {name: [1.0] * k + [0.0] * (n - k) for name, k in right.items()}
    return pd.DataFrame(scores | ({} if rouge is None else {"rouge_l": rouge}))


def test_compare_counts_gained_and_lost_stories_and_tests_their_difference():
    rouge = np.linspace(0, 0.5, 40)
    before, after = table(10, 22, rouge), table(30, 20, rouge + 0.1)
    after.loc[39, "house_style"] = 1.0
    compared = evaluation.compare(before, after)
    section, style = compared["section_right"], compared["house_style"]
    assert (section.gained, section.lost, section.p) == (20, 0, significance.mcnemar(20, 0))
    assert (style.gained, style.lost, style.p) == (1, 2, 1)
    assert section.difference == significance.bootstrap([0.0] * 10 + [1.0] * 20 + [0.0] * 10)
    headline = compared["rouge_l"]
    assert (headline.gained, headline.lost) == (40, 0)
    assert headline.p == significance.sign_flip([0.1] * 40)
    assert headline.difference == pytest.approx((0.1, 0.1, 0.1))


def test_pairing_finds_a_difference_where_the_separate_intervals_overlap():
    before, after = table(20, 0)[["section_right"]], table(27, 0)[["section_right"]]
    first, second = (evaluation.summary(scores)["section_right"] for scores in (before, after))
    assert second.low < first.high
    assert evaluation.compare(before, after)["section_right"].verdict == "higher"
    assert evaluation.compare(after, before)["section_right"].verdict == "lower"
    # The means are the same, but 13 other stories were lost and 20 gained.
    shuffled = after.iloc[::-1].reset_index(drop=True)
    compared = evaluation.compare(before, shuffled)["section_right"]
    assert compared.difference.mean == pytest.approx(7 / 40)
    assert compared.verdict == "no difference shown"


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (table(20, 30).replace({"house_style": {0.0: np.nan}}), "'house_style' are missing for 10"),
        (table(3, 3).iloc[:39], "got 40 and 39 rows"),
        (table(1, 1)[[]], "no common metric"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(after, message):
    with pytest.raises(ValueError, match=message):
        evaluation.compare(table(30, 20), after)


# -- tables


@pytest.fixture
def two_scores():
    right, wrong = news.answer(EXAMPLE), "no JSON"
    references = [EXAMPLE] * 10
    return {
        "few-shot": evaluation.score([right] * 4 + [wrong] * 6, references),
        "tuned": evaluation.score([right] * 10, references),
    }


def test_before_after_has_a_row_for_each_metric_and_each_cost(two_scores):
    table = evaluation.before_after(
        two_scores,
        costs={"prompt tokens": {"few-shot": 612.4, "tuned": 101}, "note": {"tuned": "!"}},
    )
    assert list(table.columns) == ["few-shot", "tuned"]
    assert list(table.index) == [*evaluation.METRICS.values(), "prompt tokens", "note"]
    assert table.loc["valid JSON"].tolist() == ["40% (17–69)", "100% (72–100)"]
    assert table.loc["prompt tokens"].tolist() == ["612", "101"]
    assert table.loc["note"].tolist() == ["", "!"]
    assert "40% (17–69)" in table.to_html()


def test_intervals_has_the_numbers_of_the_summary(two_scores):
    numbers = evaluation.intervals(two_scores)
    assert numbers.loc["section right", ("few-shot", "mean")] == 0.4
    for name, scores in two_scores.items():
        summary = evaluation.summary(scores)
        assert summary["section_right"] == significance.wilson(
            int(scores["section_right"].sum()), 10
        )
        assert summary["rouge_l"] == significance.bootstrap(scores["rouge_l"])
        for metric, interval in summary.items():
            row = numbers.loc[evaluation.METRICS[metric], name]
            assert tuple(row[["mean", "low", "high"]]) == interval


def test_side_by_side_escapes_all_text():
    text = '<script>alert("x")</script> & more'
    example = EXAMPLE | {"story": text, "headline": text}
    page = evaluation.side_by_side([example], {text: [text]})._repr_html_()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; more") == 4
