"""Test forgetting: the general questions, the scores of answers, and the loss on answers."""

import pytest
import torch

from course_utils import forgetting
from tests.conftest import token_losses

PARIS = {"question": "What is the capital of France?", "answers": ["Paris"]}
FOUR = {"question": "What is 9 - 5?", "answers": ["4", "four"]}


@pytest.fixture(scope="module")
def questions():
    return forgetting.load_questions()


def test_every_listed_answer_is_right(questions):
    for question in questions:
        given = [f"It is {answer}." for answer in question["answers"]]
        assert forgetting.score(given, [question] * len(given))["right"].all()


@pytest.mark.parametrize(
    ("answer", "question", "right", "news_json"),
    [
        ("paris", PARIS, 1, 0),
        ("The capital is Paris.\nIt has parks.", PARIS, 1, 0),
        ("A parisian would know.", PARIS, 0, 0),
        ("_Paris_", PARIS, 1, 0),
        ("C++, of course", {"answers": ["C++"]}, 1, 0),
        ("It costs $50.", {"answers": ["$5"]}, 0, 0),
        ("", PARIS, 0, 0),
        ("Four", FOUR, 1, 0),
        ("It is 14.", FOUR, 0, 0),
        ('{"section": "culture", "headline": "Paris is the capital"}', PARIS, 1, 1),
        ('Sure: {"section": "sport", "headline": "Owls win 4 games"}', FOUR, 1, 0),
        ('{"answer": "Paris"}', PARIS, 1, 0),
        ('{"section": "sport", "culture": "sport", "cul', FOUR, 0, 1),
    ],
)
def test_scores_say_what_is_known_and_what_has_become_news(answer, question, right, news_json):
    scores = forgetting.score([answer], [question])
    assert scores.iloc[0].to_dict() == {"right": right, "news_json": news_json}


def test_each_answer_needs_a_question():
    with pytest.raises(ValueError, match="got 1 answers for 2 questions"):
        forgetting.score(["Paris"], [PARIS, FOUR])
    with pytest.raises(ValueError, match="at least one question"):
        forgetting.score([], [])
    with pytest.raises(ValueError, match="got 1 answers for 2 questions"):
        forgetting.conversations([PARIS, FOUR], ["Paris"])


def test_a_question_is_a_user_message_and_its_answer_an_assistant_message():
    asked = {"role": "user", "content": PARIS["question"]}
    assert forgetting.conversations([PARIS]) == [[asked]]
    (answered,) = forgetting.conversations([PARIS], ["Rome"])
    assert answered == [asked, {"role": "assistant", "content": "Rome"}]


def test_loss_is_the_mean_over_all_tokens_of_the_answers_but_the_end_tokens(model, tokenizer):
    questions = [{"question": "ab" * n} for n in range(1, 12)]
    answers = ["no" * (12 - n) for n in range(1, 12)]
    losses = []
    for chat in forgetting.conversations(questions, answers):
        prompt = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True)["input_ids"]
        answer = tokenizer(chat[1]["content"])["input_ids"]
        row = {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
        losses.append(token_losses(model, row))
    model.train()
    found = forgetting.loss_on(model, tokenizer, questions, answers)
    assert found == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)
    assert model.training


def test_the_text_loss_is_the_mean_over_all_tokens_but_the_first_of_each_text(model, tokenizer):
    texts = [{"text": "ab" * n + "c"} for n in range(1, 12)]
    ids = [tokenizer(text["text"])["input_ids"] for text in texts]
    losses = [token_losses(model, {"input_ids": row, "labels": row}) for row in ids]
    expected = torch.cat(losses).mean().item()
    assert forgetting.text_loss(model, tokenizer, texts) == pytest.approx(expected, rel=1e-4)
