"""Test that a Decoder gives the answers and logits of transformers, and which models it supports.

Each prompt is answered alone by transformers' `generate`, without a cache of a common prefix.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model

from course_utils import decoding, evaluation, news, sft
from course_utils.decoding import Decoder, supports
from course_utils.machine import runtime
from course_utils.models import linear4bit_layers, load_base, tiny_base
from course_utils.training import Recipe, attach_adapters, strength
from tests.conftest import compute_in, make_model, randomize_adapters

pytestmark = pytest.mark.usefixtures("frozen_imports")

NEW = 6
# The logits may differ by this part of the largest logit.
TOLERANCE = 1e-4


def prompts(lengths, common, seed=0):
    """Return random prompts of these lengths after a common prefix, without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    prefix, *rests = (
        torch.randint(3, 96, (length,), generator=generator).tolist()
        for length in (common, *lengths)
    )
    return prefix, rests


PROMPTS = {
    "one": prompts([9], 0),
    "one token": prompts([1], 0, seed=1),
    "no prefix": prompts([9, 1, 40, 17, 3], 0),
    "prefix": prompts([9, 1, 40, 17, 3], 23),
    # Apart from the last token, the first prompt is the beginning of the second one.
    "a beginning": ([5, 6], [[7], [7, 8, 9, 10, 11]]),
    "equal": (prompts([4], 3)[0], [prompts([4], 3)[1][0]] * 3),
}


def adapted(model, name="default", seed=0, **changes):
    """Add an adapter whose A and B are random and large."""
    model = attach_adapters(model, Recipe(**({"rank": 4, "alpha": 12} | changes)), name)
    return randomize_adapters(model.eval(), 0.2, name, seed)


def with_second_adapter():
    return adapted(adapted(tiny_base()), "second", seed=1)


def first_of_two():
    model = with_second_adapter()
    model.set_adapter("default")
    return model


MODELS = {
    "NF4": tiny_base,
    "float32": make_model,
    "untied head": lambda: make_model(tie_word_embeddings=False),
    "a key head for each query head": lambda: make_model(num_key_value_heads=4),
    "one key head, wide heads": lambda: make_model(num_key_value_heads=1, head_dim=32),
    "scaled rotation": lambda: make_model(
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0}
    ),
    "adapter": lambda: adapted(tiny_base()),
    "adapter, float32": lambda: adapted(make_model(num_hidden_layers=3)),
    "q and v": lambda: adapted(tiny_base(), targets=("q_proj", "v_proj")),
    "MLP": lambda: adapted(tiny_base(), targets=("up_proj", "down_proj")),
    "second adapter": with_second_adapter,
    "first of two adapters": first_of_two,
}


@dataclass
class Found:
    """New tokens of each prompt, and the logits from which each of these tokens was chosen."""

    tokens: list[list[int]]
    logits: list[torch.Tensor]


def decoded(model, case, monkeypatch, ends=(), new=NEW) -> Found:
    """Answer with a Decoder, and cut the answers after their first end token."""
    prefix, rests = PROMPTS[case]
    steps, compute = [], Decoder._logits

    def record(self, x):
        steps.append(compute(self, x))
        return steps[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "_logits", record)
        answers = Decoder(model, prefix).answers(rests, ends, new)
    counts = [next((n for n, t in enumerate(row, 1) if t in ends), len(row)) for row in answers]
    logits = torch.stack(steps, 1).unbind()
    return Found(*([row[:n] for row, n in zip(x, counts, strict=True)] for x in (answers, logits)))


@torch.no_grad()
def generated(model, case, ends=(), new=NEW) -> Found:
    """Answer one prompt after the other with transformers' `generate`."""
    prefix, rests = PROMPTS[case]
    found = Found([], [])
    for rest in rests:
        ids = torch.tensor([prefix + rest])
        options = {"max_new_tokens": new, "eos_token_id": list(ends) or None, "pad_token_id": 0}
        options |= {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        # Without an end token, the model's own end token would be used.
        base.generation_config.eos_token_id = None
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        found.tokens.append(out.sequences[0, ids.shape[1] :].tolist())
        found.logits.append(torch.cat(out.logits))
    return found


def assert_equal(ours: Found, theirs: Found) -> None:
    assert ours.tokens == theirs.tokens
    for mine, expected in zip(ours.logits, theirs.logits, strict=True):
        limit = TOLERANCE * expected.abs().max().item()
        torch.testing.assert_close(mine, expected, rtol=0, atol=limit)


# -- the answers and logits ------------------------------------------------------------------------


@pytest.mark.parametrize("case", PROMPTS)
@pytest.mark.parametrize("adapter", [False, True], ids=["plain", "adapted"])
def test_answers_and_logits_are_those_of_each_prompt_alone(case, adapter, monkeypatch):
    model = adapted(tiny_base()) if adapter else tiny_base()
    assert supports(model)
    theirs = generated(model, case)
    assert_equal(decoded(model, case, monkeypatch), theirs)
    # If the model repeated a single token, wrong positions could go unnoticed.
    assert len(set(theirs.tokens[0])) > 2


@pytest.mark.parametrize("name", MODELS)
def test_answers_and_logits_of_each_kind_of_model_are_those_of_transformers(name, monkeypatch):
    model = MODELS[name]()
    assert supports(model)
    assert_equal(decoded(model, "prefix", monkeypatch), generated(model, "prefix"))


@pytest.mark.parametrize("state", ["disabled", "half", "none"])
def test_disabled_and_weakened_adapters_count_as_they_do_in_transformers(state, monkeypatch):
    model = adapted(tiny_base())
    full = decoded(model, "prefix", monkeypatch)
    contexts = {
        "disabled": model.disable_adapter,
        "half": lambda: strength(model, 0.5),
        "none": lambda: strength(model, 0),
    }
    with contexts[state]():
        assert supports(model)
        ours = decoded(model, "prefix", monkeypatch)
        assert_equal(ours, generated(model, "prefix"))
    with pytest.raises(AssertionError):
        assert_equal(ours, full)
    assert_equal(decoded(model, "prefix", monkeypatch), full)


@pytest.mark.parametrize(("new", "place"), [(1, 0), (2, 1), (NEW, 0), (NEW, 3)])
def test_an_answer_ends_at_an_end_token(new, place, monkeypatch):
    model = adapted(tiny_base())
    # These tokens end some of the answers, and the answers of a batch have different lengths.
    ends = {tokens[place] for tokens in generated(model, "prefix").tokens[::2]}
    theirs = generated(model, "prefix", ends, new)
    assert_equal(decoded(model, "prefix", monkeypatch, tuple(ends), new), theirs)
    if new == NEW and place:
        assert len(set(map(len, theirs.tokens))) > 1


def test_products_are_computed_in_the_compute_dtype(monkeypatch):
    model = adapted(tiny_base())
    exact = decoded(model, "prefix", monkeypatch)
    for layer in linear4bit_layers(model).values():
        layer.compute_dtype = torch.bfloat16
    assert supports(model)
    rounded = decoded(model, "prefix", monkeypatch)
    first, close = (found.logits[2][0] for found in (exact, rounded))
    assert 0 < (first - close).norm() / first.norm() < 0.05


# -- which models are supported --------------------------------------------------------------------


def peft(**options):
    return get_peft_model(tiny_base(), LoraConfig(target_modules=["q_proj"], **options))


def merged():
    model = adapted(make_model())
    model.merge_adapter()
    return model


def two_active():
    model = with_second_adapter()
    model.base_model.set_adapter(["default", "second"])
    return model


def with_option(**options):
    model = tiny_base()
    model.generation_config.update(**options)
    return model


def repacked():
    model = tiny_base()
    for layer in linear4bit_layers(model).values():
        layer.weight.quant_state.packing_format_for_cpu = True
    return model


# tests/test_by_hand.py has models that can neither answer nor be trained by hand.
UNSUPPORTED = {
    "a trained norm": lambda: peft(modules_to_save=["norm"]),
    "a trained head": lambda: peft(modules_to_save=["lm_head"]),
    "trained tokens": lambda: peft(trainable_token_indices=[3]),
    "merged": merged,
    "two active adapters": two_active,
    "virtual tokens": lambda: get_peft_model(
        tiny_base(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    ),
    "IA3": lambda: get_peft_model(
        tiny_base(), IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    ),
    "repetition penalty": lambda: with_option(repetition_penalty=1.3),
    "minimum length": lambda: with_option(min_new_tokens=5),
    "repacked weights": repacked,
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_a_decoder_would_compute_differently_is_not_supported(name):
    assert not supports(UNSUPPORTED[name]())


def test_dequantized_weights_need_at_most_half_of_the_free_memory(monkeypatch):
    needed = 2 * 36_864 * 4
    for free, fits in ((2 * needed, True), (2 * needed - 1, False)):
        monkeypatch.setattr(runtime, "available_memory", lambda free=free: free)
        assert supports(tiny_base()) == fits
        assert supports(make_model())


# -- evaluation.generate ---------------------------------------------------------------------------


def test_generate_lets_the_dequantized_weights_go(tokenizer, monkeypatch):
    questions = [[{"role": "user", "content": text}] for text in ("a", "Rain.", "12, 13")]
    kept, dense = [], decoding.dense_weight

    def record(layer, dtype):
        weight = dense(layer, dtype)
        kept.append(weakref.ref(weight))
        return weight

    model = tiny_base()
    model.resize_token_embeddings(len(tokenizer))
    monkeypatch.setattr(decoding, "dense_weight", record)
    held = []

    def look(**_options):
        held.extend(ref() for ref in kept if ref() is not None)

    monkeypatch.setattr(runtime, "release_memory", look)
    evaluation.generate(model, tokenizer, questions, max_new_tokens=3, progress=False)
    assert len(kept) == 14 and held == []


@pytest.mark.slow
@pytest.mark.parametrize("tuned", [False, True], ids=["plain", "adapted"])
def test_smollm2_gives_the_answers_of_transformers(tuned, monkeypatch):
    model, tokenizer = load_base("smollm2-135m", quantization="nf4", compute_dtype=torch.float32)
    compute_in(model, torch.float32)
    if tuned:
        model = adapted(model, rank=8, alpha=16)
    stories = list(news.load_news()["test"])[:4]
    ids = [evaluation._prompt_ids(news.messages(s, news.shots()), tokenizer) for s in stories]
    prefix = sft.shared_prefix(ids)
    case = prefix, [row[len(prefix) :] for row in ids]
    monkeypatch.setitem(PROMPTS, "news", case)
    ends = tuple(evaluation._end_tokens(model, tokenizer))
    theirs = generated(model, "news", ends, 12)
    assert_equal(decoded(model, "news", monkeypatch, ends, 12), theirs)
