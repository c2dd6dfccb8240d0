"""Test training and answering in float16, as on a T4, on a CPU.

A float16 number has 11 significant bits and at most the value 65,504. So float16 changes a training
run in two ways. Each result is rounded, and a gradient can overflow to infinity. The gradient
scaler must then skip the step and halve the scale by which it multiplies the loss.

PyTorch's autocast and gradient scaler compute in float16 on a CPU, too. So these tests run the same
loop as a T4. Only the kernels and the optimizer differ: on CUDA, the optimizer is PagedAdamW8bit.
"""

import math
from dataclasses import replace

import pytest
import torch

from course_utils import evaluation, news
from course_utils.models import load_base, tiny_base
from course_utils.sft import collate, encode_all
from course_utils.training import (
    Recipe,
    TrainingError,
    answer_loss,
    attach_adapters,
    finetune,
    loop,
    step,
    trainable_parameters,
)
from course_utils.training.loop import Trainer
from tests.conftest import compute_in, make_model, random_examples

pytestmark = pytest.mark.usefixtures("frozen_imports")

RECIPE = Recipe(
    rank=4, micro_batch_size=4, learning_rate=1e-2, max_steps=6, compute_dtype=torch.float16
)
EXAMPLES = random_examples(12, seed=3)
# Maximum relative error of one rounding to float16.
ROUNDING = 2.0**-11
# Maximum relative difference of the losses in float16 and float32. The first loss is the mean over
# many tokens of equal models, so most of the rounding errors cancel. In later steps the weights
# differ, too. In bfloat16, a rounding error is 8 times as large, and the losses of SmolLM2-135M
# with two stories per step exceed both limits.
FIRST, LATER = ROUNDING, 8 * ROUNDING
# A first scale at which no step overflows, so that no step is skipped. At the scaler's own first
# scale, 65,536, a step of SmolLM2-135M overflows if it has only one story.
SMALL_SCALE = 2.0**10
BASES = {"float weights": make_model, "NF4": tiny_base}


def adapted(model, recipe):
    """Return a model with new adapters that computes in the recipe's compute_dtype."""
    return attach_adapters(compute_in(model, recipe.compute_dtype), recipe).train()


def trainer_of(model, tokenizer, features, recipe, scale=None):
    """Return a trainer of new adapters, whose scaler begins with a given scale."""
    trainer = Trainer(adapted(model, recipe), tokenizer, features, (), recipe)
    if scale is not None:
        set_scale(trainer.accelerator, scale)
    return trainer


def run_steps(model, tokenizer, features, recipe, scale=None):
    """Train new adapters with all computations in the recipe's compute_dtype, and remove them.

    Returns the history of the run. The scaler's first scale is `scale`, or else its own.
    """
    trainer = trainer_of(model, tokenizer, features, recipe, scale)
    history = [trainer.step(number) for number in range(1, trainer.steps + 1)]
    trainer.accelerator.free_memory()
    trainer.model.unload()
    return history


@pytest.fixture
def make_trainer(tokenizer):
    """Return a function that makes a trainer, whose scaler begins with a given scale."""

    def make_trainer(recipe=RECIPE, scale=None, base=tiny_base):
        return trainer_of(base(), tokenizer, EXAMPLES, recipe, scale)

    return make_trainer


@pytest.fixture
def train(tokenizer, tmp_path):
    """Return a function that trains a model with `finetune`."""

    def train(folder="run", recipe=RECIPE, **options):
        options |= {"recipe": recipe, "output_dir": tmp_path / folder}
        return finetune(adapted(tiny_base(), recipe), tokenizer, EXAMPLES, **options)

    return train


def set_scale(accelerator, scale, **more):
    state = accelerator.scaler.state_dict() | {"scale": scale} | more
    accelerator.scaler.load_state_dict(state)


def begin_with(monkeypatch, scale, **more):
    """Let the gradient scaler of each run begin with `scale`."""
    make = loop.make_accelerator

    def make_accelerator(*arguments):
        accelerator = make(*arguments)
        set_scale(accelerator, scale, **more)
        return accelerator

    monkeypatch.setattr(loop, "make_accelerator", make_accelerator)


def losses(run):
    return [record["loss"] for record in run.history]


def skipped(history):
    return [record["step"] for record in history if not math.isfinite(record["grad_norm"])]


def weights(model):
    return {name: p.detach().clone() for name, p in trainable_parameters(model).items()}


# -- rounding --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=BASES)
def histories(request, tokenizer):
    """The histories of the same run in float32, float16 and bfloat16."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    recipes = {dtype: replace(RECIPE, compute_dtype=dtype, fast=False) for dtype in dtypes}
    base = BASES[request.param]()
    return {d: run_steps(base, tokenizer, EXAMPLES, r) for d, r in recipes.items()}


@pytest.mark.full
def test_losses_in_float16_equal_those_in_float32_up_to_rounding(histories):
    exact, rounded, coarse = (
        torch.tensor([record["loss"] for record in history]) for history in histories.values()
    )
    error = (rounded / exact - 1).abs()
    assert error[0] < FIRST and error.max() < LATER / 2
    assert error.min() > 0
    norms = ([record["grad_norm"] for record in histories[d]] for d in list(histories)[:2])
    torch.testing.assert_close(*map(torch.tensor, norms), rtol=0.02, atol=0)
    # bfloat16 rounds 8 times as coarsely.
    assert (coarse / exact - 1).norm() > 4 * error.norm()


@pytest.mark.parametrize("kind", BASES)
def test_products_are_computed_in_float16_and_adapters_stay_in_float32(tokenizer, kind):
    model = BASES[kind]()
    if kind == "NF4":
        compute_in(model, torch.float16)
    # The other weights are float32, so only autocast can compute in float16.
    model = attach_adapters(model, RECIPE).train()
    trainer = Trainer(model, tokenizer, EXAMPLES, (), RECIPE)
    seen = {"products": set(), "gradients": set()}
    for name, layer in model.named_modules():
        if name.endswith("base_layer"):
            layer.register_forward_hook(lambda _, x, y: seen["products"].add(y.dtype))
    for p in trainable_parameters(model).values():
        p.register_hook(lambda g: seen["gradients"].add(g.dtype))
    trainer.step(1)
    assert seen == {"products": {torch.float16}, "gradients": {torch.float32}}
    for p in trainable_parameters(model).values():
        assert p.dtype == trainer.optimizer.state[p]["exp_avg"].dtype == torch.float32


def test_small_gradients_survive_because_the_loss_is_scaled(make_trainer, monkeypatch):
    """Test with a loss so small that its gradients would be 0 in float16 without a scaler."""
    small = lambda model, batch: answer_loss(model, batch) * 2**-20  # noqa: E731
    exact = make_trainer(replace(RECIPE, compute_dtype=torch.float32, fast=False)).step(1)
    monkeypatch.setattr(step, "answer_loss", small)
    norm = make_trainer().step(1)["grad_norm"]
    assert norm * 2**20 == pytest.approx(exact["grad_norm"], rel=0.01)
    assert make_trainer(scale=1.0).step(1)["grad_norm"] * 2**20 < 0.9 * exact["grad_norm"]


# -- clipping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_gradients_are_clipped_after_they_are_unscaled(make_trainer, monkeypatch, base, dtype):
    norms = []
    update = torch.optim.AdamW.step

    def record_norm(self, *args, **kwargs):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads])).item())
        return update(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", record_norm)
    recipe = replace(RECIPE, max_grad_norm=0.01, compute_dtype=dtype)
    trainer = make_trainer(recipe, base=base)
    assert trainer.step(1)["grad_norm"] > 0.02
    assert norms == [pytest.approx(0.01, rel=1e-3)]


# -- overflow --------------------------------------------------------------------------------------


def test_an_overflow_changes_no_weight_and_no_state_and_halves_the_scale(make_trainer):
    trainer = make_trainer()
    trainer.step(1)
    trainer.step(2)
    before = weights(trainer.model)
    states = {p: {k: v.clone() for k, v in s.items()} for p, s in trainer.optimizer.state.items()}
    rate = trainer.schedule.get_last_lr()
    set_scale(trainer.accelerator, 2.0**30)
    record = trainer.step(3)
    assert trainer.accelerator.scaler.get_scale() == 2.0**29
    assert math.isfinite(record["loss"]) and not math.isfinite(record["grad_norm"])
    assert record["learning_rate"] == rate[0] and trainer.schedule.get_last_lr() == rate
    for name, p in trainable_parameters(trainer.model).items():
        assert torch.equal(p, before[name]) and p.grad is None
        assert all(torch.equal(v, states[p][k]) for k, v in trainer.optimizer.state[p].items())
    set_scale(trainer.accelerator, 2.0**16)
    trainer.step(4)
    assert trainer.schedule.get_last_lr() != rate
    assert not torch.equal(trainable_parameters(trainer.model)[name], before[name])


def test_training_recovers_from_a_scale_that_is_too_large(make_trainer):
    trainer = make_trainer(replace(RECIPE, max_steps=16), scale=2.0**20)
    history = [trainer.step(number) for number in range(1, 17)]
    lost = skipped(history)
    # The first steps are skipped until the scale is small enough.
    assert lost[0] == 1 and 2 < len(lost) < 8
    assert trainer.accelerator.scaler.get_scale() == 2.0 ** (20 - len(lost))
    assert trainer.schedule.last_epoch == 16 - len(lost)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]


def test_an_overflow_in_one_micro_batch_skips_the_whole_step(make_trainer, monkeypatch):
    calls = []

    def overflow_once(model, batch):
        calls.append(1)
        return answer_loss(model, batch) * (2.0**30 if len(calls) == 1 else 1)

    monkeypatch.setattr(step, "answer_loss", overflow_once)
    trainer = make_trainer(replace(RECIPE, micro_batch_size=2, accumulation=2))
    before = weights(trainer.model)
    assert not math.isfinite(trainer.step(1)["grad_norm"]) and len(calls) == 2
    assert all(torch.equal(p, before[n]) for n, p in trainable_parameters(trainer.model).items())


def test_gradients_that_overflow_at_every_scale_end_the_run(train, monkeypatch, tmp_path):
    # The gradient of the square root at 0 is infinite.
    faulty = lambda model, batch: (  # noqa: E731
        (loss := answer_loss(model, batch)) + 0 * (loss - loss.detach()).sqrt()
    )
    begin_with(monkeypatch, 8.0)
    monkeypatch.setattr(step, "answer_loss", faulty)
    # The scales of the first 3 steps are 8, 4 and 2. At a scale of 1, the scaler can't help.
    with pytest.raises(TrainingError, match=r"stopped at step 4: .*gradient norm is nan"):
        train()
    # A run that is too short for this says that it did not change the weights.
    with pytest.raises(TrainingError, match=r"stopped at step 3: .*every step overflowed"):
        train("short", recipe=replace(RECIPE, max_steps=3))


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.mark.full
def test_a_resumed_run_has_the_scaler_of_an_uninterrupted_run(train, monkeypatch):
    """Test with a scale that overflows in the first steps, and then grows after every two steps."""
    begin_with(monkeypatch, 2.0**18, growth_interval=2)

    def interrupt(history):
        if len(history) == 4:
            raise KeyboardInterrupt

    whole = train("whole")
    assert not train(on_step=interrupt).finished
    monkeypatch.undo()
    # The new scaler has the default scale, so the scale must be read from the checkpoint.
    resumed = train(resume=True)
    assert resumed.finished and losses(resumed) == losses(whole)
    assert skipped(resumed.history) == skipped(whole.history) != []
    assert len(skipped(whole.history)) < len(whole.history)


def test_a_run_cannot_be_resumed_in_another_precision(tokenizer, tmp_path):
    # The precision is that of the layers, for example on two cards of different generations.
    recipe = replace(RECIPE, compute_dtype=None, fast=False, max_steps=2)

    def train(dtype, **options):
        model = adapted(tiny_base(), replace(recipe, compute_dtype=dtype))
        finetune(model, tokenizer, EXAMPLES, recipe=recipe, output_dir=tmp_path, **options)

    train(torch.bfloat16)
    with pytest.raises(TrainingError, match="mixed_precision was bf16, is fp16"):
        train(torch.float16, resume=True)


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_padding_on_the_left_gives_no_nan_in_float16(base, attention):
    """Test rows whose padding positions may attend to no token at all."""
    model = compute_in(base(), torch.float16)
    model.set_attn_implementation(attention)
    batch = collate([{"input_ids": e["input_ids"], "labels": e["labels"]} for e in EXAMPLES], 0)
    with torch.no_grad():
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        assert logits.dtype == torch.float16 and logits.isfinite().all()
        for example, row in zip(EXAMPLES, logits, strict=True):
            alone = model(torch.tensor([example["input_ids"]])).logits[0, -1]
            torch.testing.assert_close(row[-1], alone, rtol=0.01, atol=0.05)


def test_answers_in_float16_equal_those_in_float32(tokenizer):
    model = make_model()
    words = ["a", "where is Tarn", "is", "of the owls", "in Bray and in Moor"]
    prompts = [[{"role": "user", "content": word}] for word in words]
    answers = {}
    for dtype in (torch.float32, torch.float16):
        options = {"max_new_tokens": 6, "progress": False}
        answers[dtype] = evaluation.generate(
            compute_in(model, dtype), tokenizer, prompts, **options
        )
    assert answers[torch.float16] == answers[torch.float32]


# -- the real model --------------------------------------------------------------------------------


@pytest.mark.slow
def test_losses_of_the_real_model_in_float16_equal_those_in_float32():
    """The model is trained on stories, one in each step."""
    real = load_base("smollm2-135m", quantization="nf4", compute_dtype=torch.float16, device="cpu")
    stories = news.load_news()["train"].select(range(4))
    features = encode_all([news.tuned_messages(story) for story in stories], real[1])
    recipe = Recipe(micro_batch_size=1, learning_rate=1e-3, max_steps=2, fast=False)
    exact, rounded = (
        torch.tensor([record["loss"] for record in run_steps(*real, features, *options)])
        for options in (
            (replace(recipe, compute_dtype=torch.float32), None),
            (replace(recipe, compute_dtype=torch.float16), SMALL_SCALE),
        )
    )
    error = (rounded / exact - 1).abs()
    assert error[0] < FIRST and error.max() < LATER and error.min() > 0
