"""The whole way on the real model, in little: news, NF4, adapters, training, answers, reloading."""

import math

import pytest
import torch

from course_utils import evaluation, news, sft
from course_utils.models import linear4bit_layers, load_base, model_bytes
from course_utils.threads import one_thread
from course_utils.training import Recipe, attach_adapters, finetune, load_adapters

RECIPE = Recipe(micro_batch_size=4, max_steps=3, learning_rate=1e-3, warmup=0)
STORIES = 12


@pytest.fixture(scope="module", autouse=True)
def equal_bits():
    """Losses and logits are compared to the last bit, on a machine that may be busy."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def stories():
    return list(news.load_news()["train"].select(range(STORIES)))


def train(stories, folder, **options):
    """A fresh NF4 model after three steps; returns it with its tokenizer and run."""
    model, tokenizer = load_base("smollm2-135m", quantization="nf4")
    model = attach_adapters(model, RECIPE)
    features = sft.encode_all([news.tuned_messages(story) for story in stories], tokenizer)
    run = finetune(model, tokenizer, features, recipe=RECIPE, output_dir=folder, **options)
    return model, tokenizer, run


@pytest.fixture(scope="module")
def trained(stories, tmp_path_factory):
    return train(stories, tmp_path_factory.mktemp("first"))


def losses(run):
    return [record["loss"] for record in run.history]


def test_the_loss_falls_from_a_pretrained_models_level(trained):
    first, *_, last = losses(trained[2])
    assert last < 0.9 * first
    assert first < 0.6 * math.log(49_152), "far better than guessing among all tokens"


def test_same_seed_same_losses_also_with_answers_given_in_between(trained, stories, tmp_path):
    asked = [news.tuned_messages(stories[0], answered=False)]

    def ask(history):
        evaluation.generate(again[0], again[1], asked, max_new_tokens=2, progress=False)

    again = load_base("smollm2-135m", quantization="nf4")
    model = attach_adapters(again[0], RECIPE)
    features = sft.encode_all([news.tuned_messages(story) for story in stories], again[1])
    run = finetune(model, again[1], features, recipe=RECIPE, output_dir=tmp_path, on_step=ask)
    assert losses(run) == losses(trained[2])


def test_the_base_is_untouched_and_the_adapters_add_their_bytes(trained):
    model, _, _ = trained
    fresh, _ = load_base("smollm2-135m", quantization="nf4")
    assert model_bytes(model) == model_bytes(fresh) + 4 * 2_442_240
    tuned = linear4bit_layers(model.get_base_model())
    pairs = zip(tuned.values(), linear4bit_layers(fresh).values(), strict=True)
    assert all(torch.equal(a.weight, b.weight) for a, b in pairs)


def test_reloaded_adapters_answer_with_equal_logits(trained, stories):
    model, tokenizer, run = trained
    copy = load_adapters(load_base("smollm2-135m", quantization="nf4")[0], run.adapters)
    features = sft.encode_all([news.tuned_messages(story) for story in stories[:2]], tokenizer)
    ids = sft.collator(tokenizer)(features)["input_ids"]
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, copy.eval()(ids).logits)
        with model.disable_adapter():
            assert not torch.equal(model(ids).logits, copy(ids).logits)


def test_answers_stop_by_themselves_or_at_the_limit(trained, stories):
    model, tokenizer, _ = trained
    asked = [news.messages(story, news.shots(("culture",))) for story in stories[:2]]
    answers = evaluation.generate(model, tokenizer, asked, max_new_tokens=8, progress=False)
    assert len(answers) == 2 and all(answer and "<|im_end|>" not in answer for answer in answers)
