"""Fixtures shared by the tests: a tiny random Llama and a tokenizer to match, made in a second."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import pytest

from course_utils.machine.runtime import usable_cores

# Tests that run beside each other (pytest -n) share the processors, and so do their kernels.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // int(workers))))

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The sizes of the tiny models of the tests, for the tokenizer below.
SIZES = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # large enough that adapters can move the logits
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def make_tokenizer():
    """A byte-level tokenizer with SmolLM2's special tokens; it too pads with the end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(special + alphabet)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=special[1], eos_token=special[2], pad_token=special[2]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(seed: int = 0, **changes):
    """A random Llama with 2 layers of width 64 and grouped-query attention, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES | {"tie_word_embeddings": True} | changes)).eval()


def random_examples(count: int, seed: int) -> list[dict]:
    """Examples of random tokens and of many lengths, the last third of each an answer."""
    import torch

    from course_utils import sft

    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in torch.randint(6, 40, (count,), generator=generator).tolist():
        ids = torch.randint(3, 96, (length,), generator=generator).tolist()
        prompt = length - length // 3
        found.append({"input_ids": ids, "labels": [sft.IGNORE] * prompt + ids[prompt:]})
    return found


def randomize_adapters(model, size: float = 0.1, name: str = "default", seed: int = 0):
    """Give the matrices B of adapters random values, as if the adapters had been trained."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in model.named_parameters():
        if f"lora_B.{name}." in parameter_name:
            parameter.data.normal_(0, size, generator=generator)
    return model


def token_losses(model, row):
    """Compute the loss of each token of a row that has a label, with transformers and torch."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
    labels = torch.tensor(row["labels"][1:])
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return losses[labels != -100]


def compute_in(model, dtype):
    """Convert all weights that are not quantized to `dtype`, and compute all products in it.

    The function changes the model, and returns it.
    """
    from course_utils.models import linear4bit_layers

    for layer in linear4bit_layers(model).values():
        layer.compute_dtype = layer.weight.quant_state.dtype = dtype
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return model


def edit_json(file: Path, **changes):
    """Change entries of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def frozen_imports():
    """Let the garbage collector skip all existing objects, for tests that often collect garbage.

    Training and generation collect garbage at their end. With torch and transformers imported, a
    collection of all objects needs almost as long as the training of a tiny model.
    """
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def model():
    return make_model()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory, tokenizer):
    """Folder of the tiny model as Hugging Face saves one."""
    folder = tmp_path_factory.mktemp("tiny-base")
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_site(tmp_path_factory):
    """Folder of the website of a small course. Its tests have the xdist group "website"."""
    from tests import sites

    return sites.build_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def course_site(tmp_path_factory):
    """Folder of the website of this course. Its tests have the xdist group "website"."""
    from tests import sites

    return sites.build_course(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; where there is none, or no Playwright, the test is skipped."""
    pytest.importorskip("playwright", reason="no Playwright: pip install -e '.[lab,test]'")
    from playwright.sync_api import sync_playwright

    from tests.browser import chromium

    with sync_playwright() as playwright:
        opened = chromium(playwright)
        yield opened
        opened.close()
