"""Test a short fine-tuning of the real model in NF4, from the stories to reloaded adapters."""

import math

import pytest
import torch

from course_utils import evaluation, news, sft
from course_utils.machine.threads import one_thread
from course_utils.models import linear4bit_layers, load_base, model_bytes
from course_utils.training import Recipe, attach_adapters, finetune, load_adapters

RECIPE = Recipe(micro_batch_size=4, max_steps=3, learning_rate=1e-3, warmup=0)
STORIES = 12


pytestmark = [pytest.mark.full, pytest.mark.xdist_group("end_to_end")]


@pytest.fixture(scope="module", autouse=True)
def equal_bits():
    """Use one thread, so that losses and logits are equal to the last bit on a busy machine."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def stories():
    return list(news.load_news()["train"].select(range(STORIES)))


def train(stories, folder, **options):
    """Train adapters of the NF4 model for three steps; return model, tokenizer and run."""
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


def test_the_loss_of_the_pretrained_model_is_low_and_falls(trained):
    first, *_, last = losses(trained[2])
    assert last < 0.9 * first
    # Guessing among all 49,152 tokens would have a loss of log(49,152).
    assert first < 0.6 * math.log(49_152)


def test_training_does_not_change_the_base_and_adapters_have_the_expected_size(trained):
    model, _, _ = trained
    fresh, _ = load_base("smollm2-135m", quantization="nf4")
    assert model_bytes(model) == model_bytes(fresh) + 4 * 2_442_240
    tuned = linear4bit_layers(model.get_base_model())
    pairs = zip(tuned.values(), linear4bit_layers(fresh).values(), strict=True)
    assert all(torch.equal(a.weight, b.weight) for a, b in pairs)


def test_reloaded_adapters_give_the_same_logits(trained, stories):
    model, tokenizer, run = trained
    copy = load_adapters(load_base("smollm2-135m", quantization="nf4")[0], run.adapters)
    features = sft.encode_all([news.tuned_messages(story) for story in stories[:2]], tokenizer)
    ids = sft.collator(tokenizer)(features)["input_ids"]
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, copy.eval()(ids).logits)
        with model.disable_adapter():
            assert not torch.equal(model(ids).logits, copy(ids).logits)


def test_generated_answers_are_not_empty_and_contain_no_end_token(trained, stories):
    model, tokenizer, _ = trained
    prompts = [news.messages(story, news.shots(("culture",))) for story in stories[:2]]
    answers = evaluation.generate(model, tokenizer, prompts, max_new_tokens=8, progress=False)
    assert len(answers) == 2 and all(answer and "<|im_end|>" not in answer for answer in answers)
