"""Test that tiny random models of every supported family can be loaded, trained and asked."""

import pytest
import torch
import transformers as tf
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from transformers.pytorch_utils import Conv1D

from course_utils import evaluation
from course_utils.memory.fit import predict
from course_utils.models import load_base
from course_utils.sft import encode_all
from course_utils.training import Recipe, attach_adapters, finetune, load_adapters
from course_utils.tuning.base import FAMILIES
from tests.conftest import SIZES
from tests.test_evaluation import one_by_one

# In the families with a sliding window, it is shorter than the texts.
WINDOW = {"sliding_window": 16}
PARTIAL = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
LATE_WINDOW = WINDOW | {"use_sliding_window": True, "max_window_layers": 1}
CONFIGS = {
    "llama": {},
    "mistral": WINDOW,
    "qwen2": LATE_WINDOW | {"tie_word_embeddings": True},
    "qwen3": LATE_WINDOW | {"head_dim": 32},
    "smollm3": {"no_rope_layer_interval": 2},
    "gemma3_text": WINDOW
    | {"head_dim": 32, "sliding_window_pattern": 2, "initializer_range": 0.05},
    "phi3": WINDOW | {"rope_parameters": PARTIAL},
    # With tied weights, a random Gemma would only repeat the last token.
    "gemma": {"head_dim": 32, "tie_word_embeddings": False},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
}
RECIPE = Recipe(rank=4, learning_rate=1e-2, max_steps=6, micro_batch_size=4)


def conversations(answers):
    """Return questions about towns of different lengths, with answers or without."""
    towns = ["Tarn", "Oskil", "Bray", "Halvik"]
    return [
        [
            {"role": "user", "content": f"Where is {town}" + "?" * 5 * n},
            {"role": "assistant", "content": f"In {town}ia."},
        ][: 1 + answers]
        for n, town in enumerate(towns)
    ]


# A process makes and trains the model of a family once.
pytestmark = [pytest.mark.xdist_group("families"), pytest.mark.usefixtures("frozen_imports")]


@pytest.fixture(
    scope="module",
    params=[pytest.param(f, marks=[] if f == "llama" else pytest.mark.full) for f in CONFIGS],
)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tokenizer, tmp_path_factory):
    """Return the folder of a tiny random model of a family, with a tokenizer."""
    path = tmp_path_factory.mktemp(family)
    torch.manual_seed(0)
    config = tf.AutoConfig.for_model(family, **SIZES | CONFIGS[family])
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Return a model in NF4 with adapters, its tokenizer, and the run that trained the adapters."""
    model, tokenizer = load_base(path=folder, quantization="nf4", device="cpu")
    model = attach_adapters(model, RECIPE)
    data = encode_all(conversations(answers=True), tokenizer)
    output = tmp_path_factory.mktemp("run")
    run = finetune(model, tokenizer, data, recipe=RECIPE, output_dir=output)
    return model, tokenizer, run


def test_every_family_that_the_course_accepts_is_tested():
    assert tuple(CONFIGS) == FAMILIES


def test_all_linear_layers_except_the_head_are_quantized_and_adapted(trained, folder):
    model, *_ = trained
    adapted = [n for n, m in model.named_modules() if isinstance(m, LoraLayer)]
    coded = [n for n, m in model.named_modules() if isinstance(m, Linear4bit)]
    assert coded == [f"{name}.base_layer" for name in adapted]
    plain = tf.AutoModelForCausalLM.from_pretrained(folder)
    linear = [n for n, m in plain.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)]
    assert len(coded) == len(linear) - 1 and "lm_head" in linear
    trainable = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    predicted = predict(folder, "qlora", trainer="course", rank=RECIPE.rank, sequence_length=16)
    assert trainable == predicted.adapters
    assert predicted.shape.parameters == sum(p.numel() for p in plain.parameters())


def test_training_lowers_the_loss(trained):
    _, _, run = trained
    first, *_, last = (record["loss"] for record in run.history)
    assert len(run.history) == 6 and last < 0.9 * first


def test_saved_adapters_give_the_same_logits(trained, folder):
    model, tokenizer, run = trained
    base, _ = load_base(path=folder, quantization="nf4", device="cpu")
    ids = torch.tensor([tokenizer("Where is Bray?")["input_ids"]])
    model.eval()
    with torch.no_grad():
        expected = model(ids).logits
        assert not torch.equal(base(ids).logits, expected)
        assert torch.equal(load_adapters(base, run.adapters).eval()(ids).logits, expected)


def test_a_trained_model_answers(trained):
    model, tokenizer, _ = trained
    prompts = conversations(answers=False)
    answers = evaluation.generate(model, tokenizer, prompts, max_new_tokens=8, progress=False)
    assert len(answers) == len(prompts) and all(isinstance(answer, str) for answer in answers)


def test_answers_in_a_batch_equal_answers_without_padding_and_cache(folder, tokenizer):
    """The prompts have a shared prefix, and they are longer than the sliding window.

    In 16 bits, rounding could decide between two tokens that are almost equally probable.
    """
    model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = conversations(answers=False)
    answers = evaluation.generate(model, tokenizer, prompts, max_new_tokens=8, progress=False)
    assert any(answers) and answers == one_by_one(model, tokenizer, prompts, 8)
