"""Test that QLoRA by hand gives the results of peft and autograd, up to rounding.

Losses and gradients are compared on tiny models of many shapes, on the real model, and over whole
training runs.
"""

from dataclasses import replace

import pytest
import torch

from course_utils import decoding, news
from course_utils.machine import runtime
from course_utils.models import finish_loading, linear4bit_layers, load_base, nf4_config, tiny_base
from course_utils.models.llama import linears
from course_utils.sft import IGNORE, collate, encode_all, pack
from course_utils.training import (
    Recipe,
    answer_loss,
    attach_adapters,
    by_hand,
    count_answer_tokens,
    finetune,
    loop,
)
from course_utils.training.by_hand import LlamaByHand, supports
from tests.conftest import (
    SIZES,
    compute_in,
    make_model,
    random_examples,
    randomize_adapters,
    token_losses,
)

pytestmark = pytest.mark.usefixtures("frozen_imports")

RECIPE = Recipe(rank=4, micro_batch_size=4, learning_rate=1e-2, max_steps=20)
# The number of steps whose losses are compared.
STEPS = 20
# The largest difference of two gradients, divided by the largest element of the gradient. In
# float32, other orders of the same sums differ by about 1e-6.
TOLERANCE = 1e-4


def examples(count=12, seed=3):
    return random_examples(count, seed=seed)


def four_bit_llama(folder, **changes):
    """Return a random Llama with other settings, in NF4, whose products are float32."""
    make_model(vocab_size=96, **changes).save_pretrained(folder)
    from transformers import AutoModelForCausalLM

    config = nf4_config(compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.float32, device_map="cpu"
    )
    finish_loading(model)
    return model


def with_adapters(base, recipe=RECIPE, name="default"):
    """Attach adapters whose B is not zero, so that A has a gradient, too."""
    return randomize_adapters(attach_adapters(base, recipe, name=name), name=name).train()


def adapted_model(recipe=RECIPE):
    return with_adapters(tiny_base(), recipe)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def expected(model, features, scale=0.5):
    """Return the loss and the gradients of autograd, of a batch with padding."""
    model.zero_grad()
    loss = answer_loss(model, collate(features, 0))
    (loss * scale).backward()
    return loss.detach(), gradients(model)


def largest_difference(model, features, checkpointing=True, multiple=1, llama=None):
    """Compare a batch by hand with autograd: the largest relative difference of loss or gradient.

    The difference of a gradient is relative to the largest element of this gradient.
    """
    loss, theirs = expected(model, features)
    model.zero_grad()
    llama = llama or LlamaByHand(model, checkpointing)
    ours = llama.backward(pack(features, 0, multiple), 0.5)
    mine = gradients(model)
    assert set(mine) == set(theirs)
    # With two tokens, q and k have no gradient, because the first token looks only at itself.
    return max(
        (ours / loss - 1).abs().item(),
        *(
            (mine[n] - g).abs().max().item() / (g.abs().max().item() or 1)
            for n, g in theirs.items()
        ),
    )


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [True, "some", False])
@pytest.mark.parametrize("multiple", [1, 64])
@pytest.mark.parametrize("count", [1, 7])
def test_loss_and_gradients_equal_those_of_autograd(checkpointing, multiple, count):
    model = adapted_model()
    difference = largest_difference(model, examples(count), checkpointing, multiple)
    assert difference < TOLERANCE and all(g.any() for g in gradients(model).values())


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"num_attention_heads": 8, "num_key_value_heads": 2},
        {"tie_word_embeddings": False},
        {"head_dim": 32},
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 3},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
        {"rms_norm_eps": 1e-2},
    ],
    ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()),
)
def test_other_llamas_have_the_gradients_of_autograd(tmp_path, changes):
    model = with_adapters(four_bit_llama(tmp_path, **changes))
    assert supports(model) and largest_difference(model, examples(5)) < TOLERANCE


def test_lora_on_weights_without_quantization_has_the_gradients_of_autograd():
    model = with_adapters(tiny_base(quantization=None))
    assert supports(model) and largest_difference(model, examples(5)) < TOLERANCE
    # The recipe leaves the dtype open. With autograd it would be the best dtype of the CPU.
    assert loop._use_by_hand(model, RECIPE) == (runtime.compute_dtype("cpu") == torch.float32)
    assert loop._use_by_hand(model, replace(RECIPE, fast=True))


def test_lora_on_16_bit_weights_has_about_the_gradients_of_autograd():
    """In bfloat16, both ways round. Each is compared with the gradients in float32."""
    exact, rounded = (with_adapters(tiny_base(quantization=None)) for _ in range(2))
    for layer in linears(rounded.get_base_model()):
        layer.base_layer.weight.data = layer.base_layer.weight.data.bfloat16()
    for layer in linears(exact.get_base_model()):
        layer.base_layer.weight.data = layer.base_layer.weight.data.bfloat16().float()
    assert supports(rounded) and by_hand.dtype_of(rounded) == torch.bfloat16
    features = examples(5)
    _, wanted = expected(exact, features)
    rounded.zero_grad()
    LlamaByHand(rounded).backward(pack(features, 0), 0.5)
    for name, gradient in gradients(rounded).items():
        error = (gradient - wanted[name]).norm() / wanted[name].norm()
        assert error < 0.1, name
    assert loop._use_by_hand(rounded, RECIPE) == (runtime.compute_dtype("cpu") == torch.bfloat16)


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": 1},
        {"rank": 16, "alpha": 24},
        {"targets": ("q_proj", "v_proj")},
        {"targets": ("down_proj",)},
    ],
    ids=str,
)
def test_other_adapters_have_the_gradients_of_autograd(changes):
    model = adapted_model(replace(RECIPE, **changes))
    assert supports(model) and largest_difference(model, examples(5)) < TOLERANCE


@pytest.mark.parametrize("length", [2, 47, 48, 97])
def test_sequences_of_any_length_have_the_gradients_of_autograd(length):
    ids = torch.randint(3, 96, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    long = {"input_ids": ids, "labels": [IGNORE, *ids[1:]]}
    for features in ([long], [long, *examples(2)], [*examples(2), long]):
        assert largest_difference(adapted_model(), features) < TOLERANCE


@pytest.mark.parametrize("checkpointing", [True, "some", False])
@pytest.mark.parametrize("shared", [1, 16, 70])
def test_a_shared_prefix_that_is_computed_once_has_the_gradients_of_autograd(checkpointing, shared):
    beginning, features = list(range(3, 3 + shared)), examples(5)
    for row in features:
        row["input_ids"] = beginning + row["input_ids"]
        row["labels"] = [IGNORE] * shared + row["labels"]
    assert pack(features, 0)["shared"] == shared
    assert largest_difference(adapted_model(), features, checkpointing, 64) < TOLERANCE


def test_a_batch_without_answer_tokens_has_no_loss_and_no_gradient():
    model = adapted_model()
    batch = pack(examples(2), 0)
    batch["labels"].fill_(IGNORE)
    assert LlamaByHand(model).backward(batch, 1.0) == 0
    assert not any(gradient.any() for gradient in gradients(model).values())


def test_only_true_multiplies_again_in_the_backward_pass(monkeypatch):
    made = []
    for half in (by_hand.Attention, by_hand.MLP):
        multiply = half.multiply
        monkeypatch.setattr(
            half, "multiply", lambda *args, f=multiply: made.append(args) or f(*args)
        )
    for checkpointing, times in ((True, 2 * 4 - 2), ("some", 4), (False, 4)):
        made.clear()
        LlamaByHand(adapted_model(), checkpointing).backward(pack(examples(3), 0), 1.0)
        assert len(made) == times  # 2 layers with 2 halves each; the last 2 halves are still there


@pytest.mark.parametrize("checkpointing", [True, "some", False])
def test_nothing_of_earlier_batches_is_left(checkpointing):
    model = adapted_model()
    llama = LlamaByHand(model, checkpointing)
    for count, seed in ((2, 0), (9, 1), (1, 2), (4, 3)):
        llama.losses(pack(examples(3, seed), 0))
        difference = largest_difference(model, examples(count, seed), llama=llama)
        assert difference < TOLERANCE
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.data.add_(0.01 * parameter.grad)


@pytest.mark.parametrize("checkpointing", [True, "some", False])
def test_the_buffers_can_be_released_between_two_batches(checkpointing):
    model = adapted_model()
    llama = LlamaByHand(model, checkpointing)
    llama.backward(pack(examples(9), 0), 0.5)
    activations = [tensor for half in llama.halves for tensor in (half.n, half.z, half.into.xa)]
    assert all(tensor.untyped_storage().nbytes() for tensor in activations)
    runtime.release_memory()
    assert not any(tensor.untyped_storage().nbytes() for tensor in activations)
    assert largest_difference(model, examples(4), llama=llama) < TOLERANCE


def test_losses_are_those_of_each_answer_token():
    model, features = adapted_model(), examples(5)
    ours = LlamaByHand(model).losses(pack(features, 0, 64))
    theirs = torch.cat([token_losses(model, row) for row in features])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert len(ours) == count_answer_tokens([collate(features, 0)])


# -- training runs ---------------------------------------------------------------------------------


def train(tokenizer, folder, recipe=RECIPE, **options):
    model = attach_adapters(tiny_base(), recipe)
    return finetune(model, tokenizer, examples(), recipe=recipe, output_dir=folder, **options)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"gradient_checkpointing": False}, marks=pytest.mark.full),
        pytest.param({"micro_batch_size": 2, "accumulation": 2}, marks=pytest.mark.full),
        pytest.param({"max_grad_norm": 1e-3, "weight_decay": 0.1}, marks=pytest.mark.full),
    ],
    ids=["checkpointing", "no-checkpointing", "accumulation", "clipping"],
)
def test_twenty_steps_by_hand_have_the_losses_of_autograd(tokenizer, tmp_path, changes):
    recipe = replace(RECIPE, **changes)
    plain, fast = (
        train(tokenizer, tmp_path, replace(recipe, fast=fast), validation=examples(3)).table()
        for fast in (False, True)
    )
    assert len(fast) == STEPS
    assert "max_grad_norm" in changes or fast["loss"].iloc[-1] < 0.8 * fast["loss"].iloc[0]
    for column in ("loss", "grad_norm"):
        assert (fast[column] / plain[column] - 1).abs().max() < TOLERANCE
    assert fast["tokens"].equals(plain["tokens"])
    assert fast["validation_loss"].iloc[-1] == pytest.approx(plain["validation_loss"].iloc[-1])


@pytest.mark.full
def test_finetune_trains_supported_models_by_hand(tokenizer, tmp_path, monkeypatch):
    made, recipe = [], replace(RECIPE, max_steps=2)
    monkeypatch.setattr(
        loop.by_hand, "LlamaByHand", lambda *args: made.append(args) or LlamaByHand(*args)
    )
    train(tokenizer, tmp_path, recipe)
    train(tokenizer, tmp_path, replace(recipe, gradient_checkpointing=False))
    # In float32, the products that "some" keeps would need twice as much memory as in 16 bits.
    assert [checkpointing for _, checkpointing in made] == [True, False]
    train(tokenizer, tmp_path, replace(recipe, fast=False))
    train(tokenizer, tmp_path, replace(recipe, compute_dtype=torch.float32))
    train(tokenizer, tmp_path, replace(recipe, dropout=0.1))
    assert len(made) == 2
    in_16_bits = attach_adapters(tiny_base(), recipe)
    for layer in linear4bit_layers(in_16_bits).values():
        layer.compute_dtype = torch.bfloat16
    finetune(
        in_16_bits, tokenizer, examples(), recipe=replace(recipe, fast=True), output_dir=tmp_path
    )
    assert made[2][1] == "some"


def test_fast_true_raises_an_error_for_unsupported_models(tokenizer, tmp_path):
    recipe = Recipe(fast=True)
    with pytest.raises(ValueError, match="fast=True needs a Llama model on a CPU, with LoRA"):
        finetune(make_model(), tokenizer, examples(), output_dir=tmp_path, recipe=recipe)


def kept_out(change):
    """Return a supported model after a change."""
    change(model := adapted_model())
    return model


def partly_in_bfloat16(model):
    next(iter(linear4bit_layers(model).values())).compute_dtype = torch.bfloat16


def half_frozen(model):
    next(p for n, p in model.named_parameters() if "lora_A" in n).requires_grad_(False)


def with_a_trained_norm(model):
    model.get_base_model().model.norm.weight.requires_grad_(True)


def with_other_adapters(**options):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(tiny_base(), LoraConfig(r=4, task_type="CAUSAL_LM", **options))


def mistral():
    from transformers import MistralConfig, MistralForCausalLM

    return attach_adapters(MistralForCausalLM(MistralConfig(**SIZES)), RECIPE)


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
UNSUPPORTED = {
    "no adapters": tiny_base,
    "float16": lambda: attach_adapters(make_model().half(), RECIPE),
    "dropout": lambda: adapted_model(replace(RECIPE, dropout=0.1)),
    "float16 products": lambda: attach_adapters(compute_in(tiny_base(), torch.float16), RECIPE),
    "two dtypes": lambda: kept_out(partly_in_bfloat16),
    "half of an adapter": lambda: kept_out(half_frozen),
    "a trained norm": lambda: kept_out(with_a_trained_norm),
    "activation": lambda: attach_adapters(make_model(hidden_act="gelu"), RECIPE),
    "biases": lambda: attach_adapters(make_model(attention_bias=True), RECIPE),
    "biases of the MLP": lambda: attach_adapters(make_model(mlp_bias=True), RECIPE),
    "rotation": lambda: attach_adapters(make_model(rope_parameters=DYNAMIC), RECIPE),
    "Mistral": mistral,
    "DoRA": lambda: with_other_adapters(target_modules="all-linear", use_dora=True),
    "a bias of B": lambda: with_other_adapters(target_modules="all-linear", lora_bias=True),
    "head": lambda: with_other_adapters(target_modules=["q_proj", "lm_head"]),
    "a trained embedding": lambda: with_other_adapters(
        target_modules=["q_proj"], modules_to_save=["embed_tokens"]
    ),
}


# A Decoder supports these models, because it doesn't train them.
ANSWERED_BY_HAND = ("no adapters", "dropout", "half of an adapter", "a trained norm")


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_only_llamas_with_plain_lora_are_supported(name):
    model = UNSUPPORTED[name]()
    assert not supports(model)
    assert decoding.supports(model) == (name in ANSWERED_BY_HAND)


def test_supported_models_are_not_supported_without_their_adapters():
    model = adapted_model()
    assert supports(model) and supports(attach_adapters(make_model(), RECIPE))
    with model.disable_adapter():
        assert not supports(model)


def test_a_second_adapter_is_trained(tokenizer, tmp_path):
    model = with_adapters(adapted_model(), name="second")
    assert largest_difference(model, examples(3)) < TOLERANCE
    first = {n: p.detach().clone() for n, p in model.named_parameters() if ".default." in n}
    options = {"recipe": replace(RECIPE, fast=True), "output_dir": tmp_path}
    run = finetune(model, tokenizer, examples(), **options)
    assert run.history[-1]["loss"] < 0.8 * run.history[0]["loss"]
    assert all(torch.equal(dict(model.named_parameters())[n], p) for n, p in first.items())


# -- the real model --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_model_has_the_gradients_of_autograd():
    model, tokenizer = load_base("smollm2-135m", quantization="nf4", compute_dtype=torch.float32)
    # Otherwise the backward pass of peft would dequantize the weights to bfloat16.
    compute_in(model, torch.float32)
    stories = news.load_news()["train"].select(range(2))
    rows = encode_all([news.tuned_messages(story) for story in stories], tokenizer)
    assert largest_difference(with_adapters(model, Recipe()), rows, True, 64) < TOLERANCE
